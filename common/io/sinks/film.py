"""A video file, written under a temporary name and renamed when it is whole."""

import shutil
import sys
from pathlib import Path

import numpy as np

from ...backend import copies
from ...errors import SinkError
from ...files import check_writable
from ...picture.opencv import cv2

DISK_CHECK_FRAMES = 30
LEAST_FREE_BYTES = 50_000_000
VIDEO_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


class VideoFileSink:
    """A video file, playable however it was closed.

    Only a kill that cannot be caught leaves the temporary file.

    realtime: repeat or leave out pictures so that the video lasts as long as the session did;
    otherwise every picture becomes one frame.
    """

    def __init__(self, path: Path, fps: float, realtime: bool = False) -> None:
        """Raise SinkError unless the folder is writable; the first picture makes the file."""
        self._path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._fps = fps
        self._realtime = realtime
        self._early = 0.0  # share of an interval that a picture may come before its time
        self._writer: cv2.VideoWriter | None = None
        self._began_ns = 0
        self._written = 0
        self._next_check = DISK_CHECK_FRAMES
        check_writable(path, path.absolute().parent)

    def place_by_time(self) -> None:
        """Let `write` place pictures by a source's own time: each within half a frame of it."""
        self._realtime, self._early = True, 0.5

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        if self._writer is None:
            self._check_space()
            self._writer = self._open(picture.shape[1], picture.shape[0])
            self._began_ns = shown_ns
        due = 1
        if self._realtime:
            passed = (shown_ns - self._began_ns) / 1e9 * self._fps
            due = int(passed + self._early) + 1 - self._written
        if self._written >= self._next_check:
            self._check_space()
            self._next_check = self._written + DISK_CHECK_FRAMES
        if due <= 0:
            return
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        copies.count("video", bgr.nbytes)
        for _ in range(due):
            self._writer.write(bgr)
            self._written += 1

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        codec = VIDEO_CODECS[self._path.suffix.lower()]
        # avc1 plays in every browser; only macOS brings an encoder for it
        for name in ("avc1", codec) if sys.platform == "darwin" and codec == "mp4v" else (codec,):
            writer = cv2.VideoWriter(
                str(self._partial), cv2.VideoWriter.fourcc(*name), self._fps, (width, height)
            )
            if writer.isOpened():
                return writer
        raise SinkError(
            f"{self._path}: no encoder for a {width} x {height} {self._path.suffix} video; try "
            ".avi or a folder of PNGs"
        )

    def _check_space(self) -> None:
        # OpenCV's writer reports no errors, so a full disk has to be seen before it is met
        free = shutil.disk_usage(self._path.absolute().parent).free
        if free < LEAST_FREE_BYTES:
            raise SinkError(
                f"{self._path}: the disk is full ({free / 1e6:.0f} MB left); what was recorded "
                "until now is kept; free space or record elsewhere"
            )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            if self._written:
                self._partial.replace(self._path)
            else:  # an empty video must not take the place of an earlier one
                self._partial.unlink(missing_ok=True)
