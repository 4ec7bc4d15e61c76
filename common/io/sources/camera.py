"""A camera, reopened when it is lost."""

import math
import time

import numpy as np

from ...backend import copies
from ...errors import SourceError, SourceLost
from ...picture.opencv import cv2
from .camera_modes import RATE_TOLERANCE, CameraRequest, offered, rate_text
from .cameras import cameras_found, find_camera, info_of, number_of
from .permission import ask_for_camera

READ_TRIES = 5
REOPEN_TRIES = 12
GONE_S = 6.0
REOPEN_PAUSE_S = 0.5
LIKELY_FPS = (10.0, 240.0)
DEFAULT_FPS = 30.0  # also what OpenCV asks of Video4Linux where nothing is asked
AS_IT_COMES = CameraRequest()


class Camera:
    """A camera of OpenCV's. Open it on the main thread: macOS asks for permission there."""

    length = None
    paced = False

    def __init__(self, which: int | str, request: CameraRequest = AS_IT_COMES) -> None:
        """Raise UsageError if no camera has that name, SourceError if it cannot be opened.

        which: OpenCV's index, or a name or a unique part of one. request: asked of the driver, and
        checked on the first picture.
        """
        found = find_camera(which) if isinstance(which, str) else None
        self._named = found.name if found else ""
        self._index = found.number if found else int(which)
        self.name = self._called(self._index)
        self._request, self._checked, self._delivered = request, True, False
        ask_for_camera(self._index)
        try:
            self._capture = cv2.VideoCapture(self._index)
            opened = self._capture.isOpened()
        except (cv2.error, OverflowError):  # a number that no integer of OpenCV's holds
            opened = False
        if not opened:
            there = cameras_found()
            raise SourceError(
                f"{self.name} cannot be opened; check that one is connected and free and, on "
                "macOS, that System Settings > Privacy & Security > Camera allows this terminal; "
                "`sdxs doctor` looks closer, and `--source synthetic` or a video file needs no "
                f"camera{there and f'; {there}'}"
            )
        self._prepare()
        self.fps = request.fps or camera_fps(self._capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> np.ndarray:
        """Return the next picture; a hiccup is retried, a lost camera reopened.

        A failing read takes no time with some drivers and a second or more with others, so both
        tries and time count. Raises SourceLost, and SourceError for another size than asked for.
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
                self._reopen()
            ok, picture = self._capture.read()
        if not self._checked:
            self._check(picture)
        self._delivered = True
        copies.count("source", picture.nbytes)  # the driver's or decoder's copy into this picture
        return picture

    def close(self) -> None:
        self._capture.release()

    def _called(self, index: int) -> str:
        return f"camera {index} ({self._named})" if self._named else f"camera {index}"

    def _reopen(self) -> None:
        """Open the camera again, a named one under the number that it has now."""
        # numbers move when a camera goes: another one must not take its place
        index = number_of(self._named) if self._named else self._index
        if index is not None:
            self._index, self.name = index, self._called(index)
            self._capture = cv2.VideoCapture(index)
            self._prepare()

    def _prepare(self) -> None:
        """Ask the driver for what the user asked for."""
        capture, request = self._capture, self._request
        # An old frame in the driver's queue is latency.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._checked = not request
        if not request:
            return
        size = tuple(
            int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        modes = info_of(self._index).modes
        if pixels := request.pixels_from(modes, (size[0], size[1]), DEFAULT_FPS):
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*pixels))
        if request.size:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, request.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, request.size[1])
        if request.fps:  # last: a new size sets the rate back
            capture.set(cv2.CAP_PROP_FPS, request.fps)

    def _check(self, picture: np.ndarray) -> None:
        """Raise SourceError if the first picture is not what was asked for."""
        request, (height, width) = self._request, picture.shape[:2]
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        right = request.size in (None, (width, height)) and (
            request.fps is None or math.isclose(fps, request.fps, rel_tol=RATE_TOLERANCE)
        )
        if not right:
            told = math.isfinite(fps) and fps > 0
            rate = f"{rate_text(fps)} frames a second" if told else "a rate that it does not tell"
            listed = offered(info_of(self._index))
            self._capture.release()
            raise (SourceLost if self._delivered else SourceError)(
                f"{self.name} was asked for {request} and delivers {width}x{height} at {rate}; it "
                f"lists {listed or 'no sizes'}; ask for one of these, or for nothing"
            )
        self._checked = True


def camera_fps(reported: float) -> float:
    """Return the frame rate that a camera reports if it is likely, else 30.

    AVFoundation reports the lowest rate of the format, which may be 0/0, infinite or 1; a video
    written at an infinite rate never ends (OpenCV 5).
    """
    low, high = LIKELY_FPS
    return reported if math.isfinite(reported) and low <= reported <= high else DEFAULT_FPS
