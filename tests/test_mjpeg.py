"""The picture as Motion JPEG: who may look, a slow viewer, a dead one, too many, and Chromium."""

import socket
import threading
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from sdxs.common.errors import SdxsError, SinkError
from sdxs.common.io.inputs.address import Address, read_address
from sdxs.common.io.outputs import mjpeg
from sdxs.common.io.outputs.mjpeg import BOUNDARY, MjpegServer
from sdxs.common.testing.chromium import Chromium, installed_browser

WAIT_S = 30.0
HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def server() -> Iterator[MjpegServer]:
    made = MjpegServer(Address("127.0.0.1", 0))
    yield made
    made.shut()


def picture(level: int, height: int = 16, width: int = 24) -> np.ndarray:
    return np.full((height, width, 3), (level, 0, 255 - level), np.uint8)


class Viewer:
    """Reads the stream by hand."""

    def __init__(self, server: MjpegServer, head: bytes = HEAD) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), WAIT_S)
        self.socket.sendall(head)
        self._file = self.socket.makefile("rb")

    def status(self) -> int:
        line = self._file.readline()
        return int(line.split()[1]) if line else 0

    def head(self) -> dict[str, str]:
        lines = iter(self._file.readline, b"\r\n")
        return dict(line.decode().strip().split(": ", 1) for line in lines)

    def next(self) -> np.ndarray | None:
        """Return the next picture, RGB; None at the end."""
        assert self._file.readline() in (b"--" + BOUNDARY + b"\r\n", b"")
        head = self.head() if self._file.peek(1) else {}
        if not head:
            return None
        assert head["Content-Type"] == "image/jpeg"
        packed = self._file.read(int(head["Content-Length"]))
        assert self._file.readline() == b"\r\n"
        return cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def close(self) -> None:
        self._file.close()
        self.socket.close()


def looking(server: MjpegServer) -> Viewer:
    viewer = Viewer(server)
    assert viewer.status() == 200
    assert "multipart/x-mixed-replace" in viewer.head()["Content-Type"]
    return viewer


def test_a_viewer_sees_each_picture_as_soon_as_it_is_there(server: MjpegServer) -> None:
    viewer = looking(server)
    for level in (10, 200):
        server.send(picture(level), 0.0)
        seen = viewer.next()
        assert seen is not None and seen.shape == (16, 24, 3)
        assert np.abs(seen.mean((0, 1)) - (level, 0, 255 - level)).max() < 6
    late = looking(server)  # who comes in a pause sees the last one
    assert (seen := late.next()) is not None and abs(seen[..., 0].mean() - 200) < 6
    server.shut()
    assert viewer.next() is None
    viewer.close()
    late.close()


def test_nothing_is_encoded_while_nobody_looks(
    server: MjpegServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = mjpeg.jpeg
    monkeypatch.setattr(mjpeg, "jpeg", lambda each: encoded.append(1) or encode(each))
    for level in range(10):
        server.send(picture(level), 0.0)
    assert encoded == []
    viewers = [looking(server), looking(server)]
    for viewer in viewers:
        assert viewer.next() is not None
        viewer.close()
    assert encoded == [1]  # once for both


def test_a_viewer_that_reads_nothing_holds_up_nobody(server: MjpegServer) -> None:
    stuck, quick = looking(server), looking(server)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    for level in range(60):  # 60 JPEGs of 300 kB: more than the kernel keeps for a socket
        noise[0, 0] = level
        server.send(noise, 0.0)
        assert quick.next() is not None
    stuck.close()
    server.send(noise, 0.0)
    assert quick.next() is not None
    quick.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
        (b"GET /stream.mjpg HTTP/1.0\r\nHost: [::1]:8513\r\n\r\n", 200),
        (b"HEAD / HTTP/1.1\r\nHost: 192.168.1.7\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),  # DNS rebinding
        (b"GET / HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\n\r\n", 403),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", 501),
        (b"nonsense\r\n\r\n", 0),  # in the words of HTTP/0.9
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    ],
)
def test_foreign_and_malformed_requests_are_refused(
    server: MjpegServer, capfd: pytest.CaptureFixture[str], head: bytes, status: int
) -> None:
    viewer = Viewer(server, head)
    said = viewer._file.readline()
    assert (int(said.split()[1]) if said.startswith(b"HTTP") else 0) == status
    viewer.close()
    server.send(picture(1), 0.0)
    after = looking(server)
    assert after.next() is not None  # it goes on
    after.close()
    assert capfd.readouterr() == ("", "")  # only commands print


def test_another_address_asks_for_the_token() -> None:
    made = MjpegServer(Address("0.0.0.0", 0))
    try:
        assert made.token and made.url.endswith(f":{made.port}/?token={made.token}")
        for query, status in (
            ("", 403),
            ("?token=", 403),
            ("?token=x", 403),
            ("?token=%C3%A9", 403),
            (f"?token={made.token}", 200),
        ):
            head = f"GET /{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
            viewer = Viewer(made, head)
            assert viewer.status() == status
            viewer.close()
    finally:
        made.shut()


def test_a_viewer_too_many_is_turned_away_until_one_leaves(
    server: MjpegServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewers = [looking(server) for _ in range(mjpeg.MOST_VIEWERS)]
    late = Viewer(server)
    assert late.status() == 0
    late.close()
    freed = threading.Event()
    release = server._server._free.release
    monkeypatch.setattr(server._server._free, "release", lambda: (release(), freed.set()))
    viewers.pop().close()
    while not freed.is_set():  # its end is noticed with the pictures that it does not take
        server.send(picture(1), 0.0)
        freed.wait(0.01)
    viewers.append(looking(server))
    for viewer in viewers:
        viewer.close()


def test_a_port_in_use_is_said_with_the_remedy(server: MjpegServer) -> None:
    with pytest.raises(SinkError, match=r"cannot listen there \(.*in use\); name another port"):
        MjpegServer(read_address("--to", str(server.port)))


def test_chromium_shows_it(server: MjpegServer) -> None:
    pytest.importorskip("websockets", reason="Chromium is driven through websockets")
    path = installed_browser()
    if path is None:
        pytest.skip("no headless browser: neither chromium nor google-chrome is installed")
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.02):
            server.send(picture(250, 64, 96), 0.0)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with Chromium(path) as browser:
            tab = browser.open("about:blank")  # the stream itself is never loaded to its end
            tab.ask(f"void (location.href = '{server.url}')")
            wanted = "document.images.length && document.images[0].naturalWidth === 96"
            try:
                tab.until(wanted)
            except SdxsError as error:  # it was asked of the page before
                assert "navigated" in str(error)
                tab.until(wanted)
            shown = cv2.imdecode(np.frombuffer(tab.screenshot(), np.uint8), cv2.IMREAD_COLOR)
            reddish = (shown[..., 2] > 230) & (shown[..., 0] < 40)
            assert reddish.sum() > 90 * 60
    finally:
        stop.set()
        sender.join()
