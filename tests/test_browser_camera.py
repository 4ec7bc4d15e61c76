"""The camera of a browser: what is decoded, and what is refused before anything is."""

import threading

import cv2
import numpy as np
import pytest
from page_stage import Stage, picture_message

from sdxs.common.errors import UsageError
from sdxs.common.io.sources import browser
from sdxs.common.io.sources.browser import MOST_REMEMBERED, BrowserCamera, SentPicture
from sdxs.common.io.sources.protocol import Source, TimedSource
from sdxs.common.io.sources.registry import open_source
from sdxs.common.picture.jpeg import MOST_PIXELS, jpeg_size
from sdxs.common.picture.size import FrameSize

SIZE = FrameSize(96, 64)


def jpeg(width: int = 96, height: int = 64, level: int = 90, *options: int) -> bytes:
    _, packed = cv2.imencode(".jpg", np.full((height, width, 3), level, np.uint8), options)
    return bytes(packed)


def said_to_be(width: int, height: int, data: bytes) -> bytes:
    """The JPEG with another size in its header."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 4 :]


PROGRESSIVE = jpeg(96, 64, 90, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
HOSTILE = {
    "says 16000 x 16000": said_to_be(16000, 16000, jpeg()),
    "says 65535 x 65535": said_to_be(65535, 65535, jpeg()),
    "says 0 x 64": said_to_be(0, 64, jpeg()),
    "one pixel too many": said_to_be(MOST_PIXELS + 1 >> 12, 4097, jpeg()),
    "progressive": PROGRESSIVE,
    "a PNG": bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1]),
    "nothing": b"",
    "only the mark": b"\xff\xd8",
    "cut in the header": jpeg()[:40],
    "no frame before the scan": jpeg().replace(b"\xff\xc0", b"\xff\xe5"),
    "segments of length 0": b"\xff\xd8" + b"\xff\xe0\x00\x00" * 50_000,
    "fill without end": b"\xff\xd8" + b"\xff" * 100_000,
    "12 bits": jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_picture_is_refused_by_its_header(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(UsageError):
        jpeg_size(data)
    said: list[str] = []
    camera = BrowserCamera(SIZE)
    camera.offer(SentPicture(data, (1, 1), said.append))
    assert said and "picture" in said[0]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (96, 64), (3840, 2160)])
def test_the_size_is_that_of_the_header(width: int, height: int) -> None:
    assert jpeg_size(jpeg(width, height)) == (width, height)
    assert jpeg_size(b"\xff\xd8\xff\xfe\x00\x06mine" + jpeg(width, height)[2:]) == (width, height)


def test_the_newest_picture_wins_and_each_is_answered_once() -> None:
    camera, said = BrowserCamera(SIZE), list[str]()
    assert isinstance(camera, TimedSource)
    for number in range(3):
        name = f"{number}:"
        camera.offer(
            SentPicture(jpeg(level=60 * number), (7, number), lambda e, n=name: said.append(n + e))
        )
    assert said == ["0:", "1:"]
    picture = camera.read()
    assert picture is not None and abs(picture.mean() - 120) < 2 and said == ["0:", "1:", "2:"]
    assert camera.sender(round(camera.stamp_s * 1e9)) == (7, 2) and camera.sender(None) is None


def test_the_last_picture_is_held_while_none_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "SILENCE_S", 0.001)
    camera = BrowserCamera(SIZE)
    before = camera.read()
    assert before is not None and before.shape == (64, 96, 3) and np.ptp(before) == 0
    camera.offer(SentPicture(jpeg(level=200), (1, 1), lambda _: None))
    first, second = camera.read(), camera.read()
    assert first is second and abs(first.mean() - 200) < 2
    assert camera.sender(round(camera.stamp_s * 1e9)) is None  # nobody sent it again
    camera.close()
    assert camera.read() is None


def test_a_reader_that_waits_is_woken_by_a_picture_and_by_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(browser, "SILENCE_S", 60.0)
    camera, read = BrowserCamera(SIZE), list[float]()

    def reading() -> None:
        while (picture := camera.read()) is not None:
            read.append(picture.mean())
            taken.set()

    taken, thread = threading.Event(), threading.Thread(target=reading)
    thread.start()
    camera.offer(SentPicture(jpeg(level=200), (1, 1), lambda _: None))
    assert taken.wait(30)
    camera.close()
    thread.join(30)
    assert not thread.is_alive() and len(read) == 1


def test_what_cannot_be_decoded_is_said_and_the_last_picture_stays() -> None:
    camera, said = BrowserCamera(SIZE), list[str]()
    camera.offer(SentPicture(jpeg()[:200] + b"\xff\xd9", (1, 1), said.append))
    assert camera.read() is not None  # OpenCV fills up what is missing, or says so
    camera.offer(SentPicture(jpeg()[:170], (1, 2), said.append))
    assert camera.read() is not None and len(said) == 2


def test_senders_are_remembered_for_a_while() -> None:
    camera = BrowserCamera(SIZE)
    for number in range(MOST_REMEMBERED + 20):
        camera.offer(SentPicture(jpeg(8, 8), (1, number), lambda _: None))
        camera.read()
    assert len(camera._senders) == MOST_REMEMBERED


def test_the_source_is_named_browser_and_takes_nothing_more() -> None:
    camera: Source = open_source("browser:", SIZE)
    assert (camera.name, camera.length, camera.paced) == ("browser", None, False)
    with pytest.raises(UsageError, match="expected nothing"):
        open_source("browser:0", SIZE)


def test_a_page_that_steers_is_the_camera() -> None:
    with Stage(camera=True) as stage, stage.client() as client, stage.client() as other:
        assert client.of("hello")["camera"] is True
        other.of("hello")
        other.send(picture_message(1, jpeg()))
        assert "page that steers" in other.of("taken")["error"]
        client.send(picture_message(5, jpeg(level=30)))
        client.send(picture_message(6, jpeg(level=220)))
        taken = client.of("taken")
        assert (taken["picture"], taken["error"]) == (5, "")
        picture = stage.camera.read()
        assert picture is not None and abs(picture.mean() - 220) < 2
        assert client.of("taken")["picture"] == 6
        frame = stage.show()
        frame.source_ns = round(stage.camera.stamp_s * 1e9)
        stage.page.show(frame)
        client.send({"do": "show", "layers": ["picture"], "credit": 1})
        assert client.frame()[0]["sender"] == {"client": 1, "picture": 6}
    with Stage() as stage, stage.client() as client:
        client.send(picture_message(1, jpeg()))
        assert "--source browser:" in client.of("taken")["error"]
