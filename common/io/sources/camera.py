"""A camera, reopened when it is lost."""

import math
import time

import numpy as np

from ...backend import copies
from ...errors import SourceError, SourceLost
from ...picture.opencv import cv2
from .permission import ask_for_camera

READ_TRIES = 5
REOPEN_TRIES = 12
GONE_S = 6.0
REOPEN_PAUSE_S = 0.5
LIKELY_FPS = (10.0, 240.0)
DEFAULT_FPS = 30.0


class Camera:
    """A camera by OpenCV index. Open it on the main thread: macOS asks for permission there."""

    length = None
    paced = False

    def __init__(self, index: int) -> None:
        """Raise SourceError if it cannot be opened."""
        self.name = f"camera {index}"
        self._index = index
        ask_for_camera(index)
        try:
            self._capture = cv2.VideoCapture(index)
            opened = self._capture.isOpened()
        except (cv2.error, OverflowError):  # a number that no integer of OpenCV's holds
            opened = False
        if not opened:
            raise SourceError(
                f"{self.name} cannot be opened; check that one is connected and free and, on "
                "macOS, that System Settings > Privacy & Security > Camera allows this terminal; "
                "`sdxs doctor` looks closer, and `--source synthetic` or a video file needs no "
                "camera"
            )
        # An old frame in the driver's queue is latency.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.fps = camera_fps(self._capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> np.ndarray:
        """Return the next picture; a hiccup is retried, a lost camera reopened. Raises SourceLost.

        A failing read takes no time with some drivers and a second or more with others, so both
        tries and time count.
        """
        ok, picture = self._capture.read()
        tries, began = 0, time.monotonic()
        while not ok:
            tries += 1
            if time.monotonic() - began > GONE_S or tries > READ_TRIES + REOPEN_TRIES:
                raise SourceLost(
                    f"{self.name} stopped delivering frames and did not come back; check its cable "
                    "and that no other program took it; what was recorded until then is kept"
                )
            if tries >= READ_TRIES or time.monotonic() - began > 1.0:
                self._capture.release()
                time.sleep(REOPEN_PAUSE_S)
                self._capture = cv2.VideoCapture(self._index)
            ok, picture = self._capture.read()
        copies.count("source", picture.nbytes)  # the driver's or decoder's copy into this picture
        return picture

    def close(self) -> None:
        self._capture.release()


def camera_fps(reported: float) -> float:
    """Return the frame rate that a camera reports if it is likely, else 30.

    AVFoundation reports the lowest rate of the format, which may be 0/0, infinite or 1; a video
    written at an infinite rate never ends (OpenCV 5).
    """
    low, high = LIKELY_FPS
    return reported if math.isfinite(reported) and low <= reported <= high else DEFAULT_FPS
