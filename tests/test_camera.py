"""The camera: a hiccup is retried, a lost camera reopened, a gone one keeps the recording."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.errors import SourceLost
from sdxs.common.io.sources import camera as module
from sdxs.common.io.sources.camera import READ_TRIES, Camera
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.picture.opencv import cv2

LIVE = (
    *("live", "--backend", "identity", "--model", "demo", "--size", 64),
    *("--source", "0", "--headless", "--every-frame"),
)


class FakeCapture:
    """cv2.VideoCapture that fails by `script`: True yields a frame, False a failed read."""

    script: Iterator[bool] = iter(())
    opened = 0
    fps = 30.0

    def __init__(self, index: int) -> None:
        FakeCapture.opened += 1
        self._card = Synthetic(64)

    def isOpened(self) -> bool:
        return True

    def set(self, prop: int, value: float) -> bool:
        return True

    def get(self, prop: int) -> float:
        return FakeCapture.fps

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, self._card.read()) if next(FakeCapture.script, False) else (False, None)

    def release(self) -> None:
        pass


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCapture]:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(module, "REOPEN_PAUSE_S", 0.001)
    FakeCapture.opened = 0
    return FakeCapture


def test_three_failed_reads_are_got_over_without_reopening(camera: type[FakeCapture]) -> None:
    camera.script = iter([True, False, False, False, True])
    feed = Camera(0)
    assert feed.read() is not None and feed.read() is not None
    assert camera.opened == 1


def test_a_camera_that_comes_back_is_reopened(camera: type[FakeCapture]) -> None:
    camera.script = iter([True] + [False] * (READ_TRIES + 2) + [True])
    feed = Camera(0)
    assert feed.read() is not None and feed.read() is not None
    assert camera.opened > 1


def test_a_camera_that_is_gone_is_reported_with_the_remedy(camera: type[FakeCapture]) -> None:
    camera.script = iter([True])
    feed = Camera(0)
    feed.read()
    with pytest.raises(SourceLost, match="check its cable"):
        feed.read()


def test_camera_gone_ends_with_code_3_and_the_recording_intact(
    camera: type[FakeCapture], command: Command, tmp_path: Path
) -> None:
    camera.script = iter([True] * 5 + [False] * 3 + [True] * 5)
    out = tmp_path / "frames"
    done = command(*LIVE, "--out", out)
    assert done.code == 3 and done.err.count("error:") == 1 and f"wrote {out}" in done.out
    assert len(list(out.iterdir())) == 10


def test_camera_gone_leaves_a_playable_video(
    camera: type[FakeCapture], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera.script = iter([True] * 10)
    out = tmp_path / "out.mp4"
    done = command(*LIVE, "--out", out)
    assert done.code == 3
    monkeypatch.undo()  # the real VideoCapture
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"] and VideoFile(out).length == 10


@pytest.mark.parametrize(
    ("reported", "used"),
    [
        (float("nan"), 30.0),
        (float("inf"), 30.0),
        (0.0, 30.0),
        (1.0, 30.0),
        (1e6, 30.0),
        (15.0, 15.0),
        (59.94, 59.94),
    ],
)
def test_an_unlikely_frame_rate_of_a_camera_is_not_believed(
    camera: type[FakeCapture], monkeypatch: pytest.MonkeyPatch, reported: float, used: float
) -> None:
    """Bug: an infinite rate hung the video writer, and 1.0 wrote one frame a second."""
    monkeypatch.setattr(camera, "fps", reported)
    assert Camera(0).fps == used
