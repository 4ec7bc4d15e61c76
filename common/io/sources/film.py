"""A video file."""

import math
from pathlib import Path

import numpy as np

from ...backend import copies
from ...errors import SourceError, SourceLost
from ...picture.opencv import cv2
from ...picture.still import why_not_a_file


class VideoFile:
    """Every frame of a video file, once or over and over."""

    paced = True

    def __init__(self, path: Path, repeat: bool = False) -> None:
        """Open the file and read its first frame. Raises SourceError if there is none."""
        self.name = path.name
        self._path = path
        self._repeat = repeat
        obstacle = why_not_a_file(path)
        if obstacle:
            raise SourceError(
                f"{path}: {obstacle}; --source takes a camera number, a video, an image or "
                "'synthetic'"
            )
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(
                f"{path}: not a video that can be read, and no image ({path.stat().st_size:,} "
                "bytes); try an .mp4 or a .png"
            )
        ok, self._first = self._capture.read()
        if not ok:
            self.close()
            raise SourceError(
                f"{path}: holds no frames; it was cut off, or is neither a video nor an image"
            )
        reported = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = reported if math.isfinite(reported) and reported > 0 else 30.0
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.length = count if count > 0 else None  # some containers do not say
        self._at_first = True

    def read(self) -> np.ndarray | None:
        if self._at_first:
            self._at_first = False
            return self._first
        ok, picture = self._capture.read()
        if ok:
            copies.count("source", picture.nbytes)
            return picture
        if not self._repeat:
            return None
        self._capture.release()
        # Seeking to 0 is not exact in every container.
        self._capture = cv2.VideoCapture(str(self._path))
        ok, picture = self._capture.read()
        if not ok:
            raise SourceLost(f"{self._path}: could be read once and no more; was the file removed?")
        return picture

    def close(self) -> None:
        self._capture.release()
