"""A video file, whose frames carry their own time."""

import itertools
import math
import statistics
import warnings
from pathlib import Path

import numpy as np

from ...backend import copies
from ...errors import SdxsWarning, SourceError, SourceLost
from ...picture.opencv import cv2
from ...picture.still import why_not_a_file

PROBED_FRAMES = 48
ROUNDED_S = 0.0012  # that an interval may be off: containers round time stamps to milliseconds
SLOWEST_FPS, FASTEST_FPS = 1.0, 240.0


class VideoFile:
    """Every frame of a video file, once or over and over.

    fps: of a film with regular time stamps what its container says, otherwise that of its usual
    interval. length: None where the container cannot be believed. stamp_s: the time of the last
    frame that `read` returned, in seconds from the first; it goes on growing where the film begins
    again.
    """

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
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        intervals = _intervals_s(path)
        self._regular = is_regular(reported, intervals)
        self.fps = float(reported) if self._regular else usual_fps(reported, intervals)
        self.length = int(count) if self._regular and count > 0 else None
        self.stamp_s = 0.0
        self._began_s = 0.0  # of this pass
        self._zero_s = self._stamp()
        self._at_first = True
        self._lost = 0

    def read(self) -> np.ndarray | None:
        if self._at_first:
            self._at_first = False
            return self._first
        ok, picture = self._capture.read()
        if ok:
            self._note_time(self._began_s + max(0.0, self._stamp() - self._zero_s))
            copies.count("source", picture.nbytes)
            return picture
        self._warn_of_loss()
        if not self._repeat:
            return None
        self._capture.release()
        # Seeking to 0 is not exact in every container.
        self._capture = cv2.VideoCapture(str(self._path))
        ok, picture = self._capture.read()
        if not ok:
            raise SourceLost(f"{self._path}: could be read once and no more; was the file removed?")
        self._began_s = self.stamp_s = self.stamp_s + 1 / self.fps
        return picture

    def close(self) -> None:
        self._capture.release()

    def _stamp(self) -> float:
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3

    def _note_time(self, stamp_s: float) -> None:
        passed = stamp_s - self.stamp_s
        if passed <= 0:  # a container without time stamps, or a damaged one
            stamp_s = self.stamp_s + 1 / self.fps
        elif self._regular:
            self._lost += max(0, round(passed * self.fps) - 1)
        self.stamp_s = stamp_s

    def _warn_of_loss(self) -> None:
        """Warn, at the end of a pass, of frames that could not be decoded or are cut off."""
        shown_s = self.stamp_s - self._began_s
        missing = 0 if self.length is None else self.length - round(shown_s * self.fps) - 1
        found = []
        if self._lost:
            found.append(f"{self._lost} of its frames are damaged and were left out")
        if missing > 0:
            whole_s = (self.length or 0) / self.fps
            found.append(f"it is cut off at {shown_s + 1 / self.fps:.2f} s of {whole_s:.2f} s")
        if found:
            warnings.warn(f"{self.name}: {', and '.join(found)}", SdxsWarning, stacklevel=2)
        self._lost = 0


def is_regular(fps: float, intervals_s: list[float]) -> bool:
    """Tell whether a rate in frames a second agrees with time stamps."""
    if not math.isfinite(fps) or not SLOWEST_FPS <= fps <= FASTEST_FPS:
        return False
    near = 0.02 + ROUNDED_S * fps  # of whole intervals; a gap of several is a loss
    return all(each > 0 and abs(each * fps - round(each * fps)) < near for each in intervals_s)


def usual_fps(fps: float, intervals_s: list[float]) -> float:
    """Return the rate of the usual interval; without time stamps, a likely `fps`, or 30."""
    positive = [each for each in intervals_s if each > 0]
    if positive:
        return min(FASTEST_FPS, max(SLOWEST_FPS, 1 / statistics.median(positive)))
    return fps if math.isfinite(fps) and SLOWEST_FPS <= fps <= FASTEST_FPS else 30.0


def _intervals_s(path: Path) -> list[float]:
    """Return the times between the first frames, in seconds."""
    capture = cv2.VideoCapture(str(path))
    stamps: list[float] = []
    while len(stamps) < PROBED_FRAMES and capture.grab():
        stamps.append(float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3)
    capture.release()
    return [after - before for before, after in itertools.pairwise(stamps)]
