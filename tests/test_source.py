"""Every source on real files, and every way in which one can fail."""

from pathlib import Path

import numpy as np
import pytest

from sdxs.common.errors import SourceError
from sdxs.common.io.sinks.film import VideoFileSink
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.image import ImageFile
from sdxs.common.io.sources.registry import open_source
from sdxs.common.io.sources.synthetic import Synthetic, read_counter
from sdxs.common.picture.opencv import cv2

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"


def test_clip_has_every_frame_and_then_ends() -> None:
    clip = VideoFile(CLIP)
    frames = 0
    while (picture := clip.read()) is not None:
        assert picture.shape == (256, 320, 3)
        frames += 1
    assert frames == clip.length == 60
    assert clip.fps == 20


def test_a_repeated_clip_starts_again_at_its_first_frame() -> None:
    once, twice = VideoFile(CLIP), VideoFile(CLIP, repeat=True)
    first = once.read()
    assert first is not None and clip_length(twice) == 60
    again = twice.read()
    assert again is not None
    np.testing.assert_array_equal(again, first)


def clip_length(clip: VideoFile) -> int:
    assert clip.length is not None
    for _ in range(clip.length):
        clip.read()
    return clip.length


def test_image_is_read_once_or_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "odd.png"
    cv2.imwrite(str(path), np.zeros((7, 5, 3), np.uint8))
    once, always = ImageFile(path), ImageFile(path, repeat=True)
    assert once.read() is not None and once.read() is None
    assert always.read() is not None and always.read() is not None


def test_grey_and_transparent_images_become_three_channels(tmp_path: Path) -> None:
    for name, shape in (("grey.png", (8, 8)), ("alpha.png", (8, 8, 4))):
        cv2.imwrite(str(tmp_path / name), np.full(shape, 200, np.uint8))
        picture = ImageFile(tmp_path / name).read()
        assert picture is not None and picture.shape == (8, 8, 3)


@pytest.mark.parametrize("size", [64, 256, 500])
def test_test_card_counts_its_frames(size: int) -> None:
    card = Synthetic(size)
    assert [read_counter(card.read()) for _ in range(300)] == list(range(300))


def test_counter_survives_a_video(tmp_path: Path) -> None:
    card, sink = Synthetic(256), VideoFileSink(tmp_path / "card.mp4", 30)
    for _ in range(20):
        sink.write(np.ascontiguousarray(card.read()[..., ::-1]), 0)
    sink.close()
    video = VideoFile(tmp_path / "card.mp4")
    assert [read_counter(video.read()) for _ in range(20)] == list(range(20))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.mp4", None, "no such file"),
        ("absent.png", None, "no such file"),
        ("text.mp4", b"this is not a video", "not a video"),
        ("empty.mp4", b"", "is empty"),
        ("text.png", b"this is not an image", "neither a video nor an image|and no image"),
        ("cut.mp4", CLIP.read_bytes()[:20_000], "cut off before its index"),
    ],
)
def test_files_that_are_not_what_they_say(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=says) as failure:
        open_source(str(path), 64)
    assert str(path) in str(failure.value)
    assert "\n" not in str(failure.value)


def test_video_without_frames(tmp_path: Path) -> None:
    path = tmp_path / "none.avi"
    cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 64)).release()
    assert path.exists()
    with pytest.raises(SourceError, match="holds no frames|not a video"):
        open_source(str(path), 64)


def test_absent_camera_names_the_other_ways_in() -> None:
    with pytest.raises(SourceError, match="--source synthetic"):
        open_source("63", 64)
