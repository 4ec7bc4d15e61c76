"""Sinks: what is written can be read back, and nothing is left where writing failed."""

from pathlib import Path

import numpy as np
import pytest

from sdxs.common.errors import SinkError, UsageError
from sdxs.common.io.films.formats import CONTAINERS
from sdxs.common.io.sinks import film, image, window
from sdxs.common.io.sinks.registry import open_sink
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.picture.opencv import cv2


def pictures(count: int) -> list[np.ndarray]:
    card = Synthetic(64)
    return [np.ascontiguousarray(card.read()[..., ::-1]) for _ in range(count)]


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_video_is_whole_after_close_and_absent_before(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    sink = open_sink(path, 25)
    assert not list(tmp_path.iterdir())
    for picture in pictures(10):
        sink.write(picture, 0)
    assert not path.exists()
    sink.close()
    sink.close()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    video = VideoFile(path)
    first = video.read()
    assert first is not None and abs(first[..., ::-1].astype(int) - pictures(1)[0]).mean() < 10
    assert (video.length, round(video.fps)) == (10, 25)


def test_image_keeps_the_last_picture_exactly(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "last.png", 30)
    reused = np.empty((64, 64, 3), np.uint8)
    for picture in pictures(3):
        np.copyto(reused, picture)
        sink.write(reused, 0)
    reused[:] = 0  # the loop reuses its buffers
    sink.close()
    saved = cv2.imread(str(tmp_path / "last.png"))[..., ::-1]
    np.testing.assert_array_equal(saved, pictures(3)[-1])


def test_folder_numbers_its_frames_and_is_not_mixed_with_another_session(tmp_path: Path) -> None:
    sink = open_sink(tmp_path / "frames", 30)
    assert not (tmp_path / "frames").exists()
    for picture in pictures(3):
        sink.write(picture, 0)
    sink.close()
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [
        f"frame-{i:06d}.png" for i in (1, 2, 3)
    ]
    with pytest.raises(SinkError, match="another session"):
        open_sink(tmp_path / "frames", 30)


@pytest.mark.parametrize("name", ["out.mp4", "out.png", "out"])
@pytest.mark.parametrize("folder", ["missing", "a-file", "/proc"])
def test_places_that_cannot_be_written(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(SinkError, match="cannot be written") as failure:
        open_sink(tmp_path / folder / name, 30)
    assert "\n" not in str(failure.value)


def test_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4.*\.png"):
        open_sink(tmp_path / "out.doc", 30)


def test_a_failed_image_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SinkError, match="No space left"):
        image.save_image(tmp_path / "out.png", pictures(1)[0])
    assert not list(tmp_path.iterdir())


def test_window_is_refused_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV would abort the process; the check has to come first."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(window.sys, "platform", "linux")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:  QT5\n")
    with pytest.raises(SinkError, match="no display.*--headless"):
        window.Window()
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:  NONE\n")
    with pytest.raises(SinkError, match="headless build"):
        window.Window()


def disk(monkeypatch: pytest.MonkeyPatch, free: list[int]) -> list[int]:
    """Give the disk `free` bytes at each look, then the last value; return the looks."""
    looks: list[int] = []

    def usage(_: Path) -> object:
        looks.append(free[min(len(looks), len(free) - 1)])
        return type("Usage", (), {"free": looks[-1]})()

    monkeypatch.setattr(film.shutil, "disk_usage", usage)
    return looks


def test_a_disk_that_is_full_from_the_start_leaves_an_earlier_video_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: an empty video took the place of the one that was there."""
    path = tmp_path / "old.mp4"
    path.write_bytes(b"an earlier recording")
    disk(monkeypatch, [1000])
    sink = open_sink(path, 30)
    with pytest.raises(SinkError, match="disk is full"):
        sink.write(pictures(1)[0], 0)
    sink.close()
    assert path.read_bytes() == b"an earlier recording" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("shown_fps", [30, 15, 10, 1])
def test_the_disk_is_looked_at_again_and_again_at_any_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown_fps: int
) -> None:
    """Bug: at 15, 10 or 1 pictures a second the frame count never met the space check again."""
    looks = disk(monkeypatch, [10**12])
    sink = open_sink(tmp_path / "out.avi", 30, realtime=True)
    for n in range(10 * shown_fps):
        sink.write(pictures(1)[0], round(n * 1e9 / shown_fps))
    sink.close()
    assert len(looks) >= 8  # ten seconds at 30 frames a second, a look every 30 frames
