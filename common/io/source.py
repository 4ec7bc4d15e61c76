"""Where frames come from: camera, video file, image, or a synthetic test card.

Every source hands out uint8 (H, W, 3) BGR pictures, OpenCV's order; `image.to_square_rgb`
turns them into what a backend takes.
"""

import time
from pathlib import Path
from typing import Protocol

import numpy as np

from ..backend import copies
from ..errors import SourceError, SourceLost, UsageError
from ..picture.opencv import cv2

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
COUNTER_BITS = 20
READ_TRIES = 5
REOPEN_TRIES = 12
GONE_S = 6.0
REOPEN_PAUSE_S = 0.5


class Source(Protocol):
    """Anything that yields pictures.

    length: frames in one pass, None if endless. paced: `read` returns at once and the loop has to
    keep the rate `fps`.
    """

    name: str
    fps: float
    length: int | None
    paced: bool

    def read(self) -> np.ndarray | None:
        """Return the next picture, uint8 (H, W, 3) BGR, or None at the end. Raises SourceError."""

    def close(self) -> None:
        """Free the device or file; calling it again does nothing."""


class Camera:
    """A camera by OpenCV index. Open it on the main thread: macOS asks for permission there."""

    length = None
    paced = False

    def __init__(self, index: int) -> None:
        """Raise SourceError if it cannot be opened."""
        self.name = f"camera {index}"
        self._index = index
        try:
            self._capture = cv2.VideoCapture(index)
            opened = self._capture.isOpened()
        except (cv2.error, OverflowError):  # a number that no integer of OpenCV's holds
            opened = False
        if not opened:
            raise SourceError(
                f"{self.name} cannot be opened; check that one is connected and free and, on "
                "macOS, that System "
                "Settings > Privacy & Security > Camera allows this terminal; `sdxs doctor` looks "
                "closer, and "
                "`--source synthetic` or a video file needs no camera"
            )
        self._capture.set(
            cv2.CAP_PROP_BUFFERSIZE, 1
        )  # an old frame in the driver's queue is latency
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 30.0

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
                    "and that no other "
                    "program took it; what was recorded until then is kept"
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


class VideoFile:
    """Every frame of a video file, once or over and over."""

    paced = True

    def __init__(self, path: Path, repeat: bool = False) -> None:
        """Open the file and read its first frame. Raises SourceError if there is none."""
        self.name = path.name
        self._path = path
        self._repeat = repeat
        if not path.is_file():
            raise SourceError(
                f"{path}: no such file; --source takes a camera number, a video, an image or "
                "'synthetic'"
            )
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(
                f"{path}: not a video OpenCV can read ({path.stat().st_size:,} bytes); try an .mp4 "
                "or .avi"
            )
        ok, self._first = self._capture.read()
        if not ok:
            self.close()
            raise SourceError(f"{path}: holds no frames; the recording was cut off or is empty")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 30.0
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
        self._capture = cv2.VideoCapture(
            str(self._path)
        )  # seeking to 0 is not exact in every container
        ok, picture = self._capture.read()
        if not ok:
            raise SourceLost(f"{self._path}: could be read once and no more; was the file removed?")
        return picture

    def close(self) -> None:
        self._capture.release()


class ImageFile:
    """One picture, once or over and over."""

    fps = 30.0
    length = 1
    paced = True

    def __init__(self, path: Path, repeat: bool = False) -> None:
        """Read the picture. Raises SourceError if it cannot be."""
        self.name = path.name
        self._repeat = repeat
        self._done = False
        if not path.is_file():
            raise SourceError(
                f"{path}: no such file; --source takes a camera number, a video, an image or "
                "'synthetic'"
            )
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SourceError(f"{path}: not an image OpenCV can read; try a .png or .jpg")
        self._picture = picture

    def read(self) -> np.ndarray | None:
        if self._done and not self._repeat:
            return None
        self._done = True
        return self._picture

    def close(self) -> None:
        pass  # the file was closed when it had been read


class Synthetic:
    """A moving test card, the same every time, whose frame number `read_counter` reads back."""

    name = "synthetic"
    fps = 30.0
    length = None
    paced = True

    def __init__(self, size: int) -> None:
        ramp = np.linspace(0, 255, size, dtype=np.uint8)
        self._card = np.empty((size, size, 3), np.uint8)
        self._card[..., 0] = ramp[None, :]
        self._card[..., 1] = ramp[:, None]
        self._card[..., 2] = 128
        self._size = size
        self._number = 0

    def read(self) -> np.ndarray:
        size, n = self._size, self._number
        self._number += 1
        picture = np.roll(self._card, 2 * n % size, axis=1)
        angle = n * 0.05
        centre = (
            round(size * (0.5 + 0.3 * np.cos(angle))),
            round(size * (0.45 + 0.25 * np.sin(2 * angle))),
        )
        cv2.circle(picture, centre, size // 7, (40, 40, 230), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, size // 7, (255, 255, 255), max(1, size // 100), cv2.LINE_AA)
        write_counter(picture, n)
        copies.count("source", picture.nbytes)
        return picture

    def close(self) -> None:
        pass  # holds nothing


def write_counter(picture: np.ndarray, number: int) -> None:
    """Draw `number` into the top edge as black and white blocks, least significant bit first."""
    side = picture.shape[1] // COUNTER_BITS
    for bit in range(COUNTER_BITS):
        picture[:side, bit * side : (bit + 1) * side] = 255 * (number >> bit & 1)


def read_counter(picture: np.ndarray) -> int:
    """Read back what `write_counter` drew, also after lossy coding; (H, W, 3) of any colour
    order.
    """
    side = picture.shape[1] // COUNTER_BITS
    blocks = picture[side // 4 : max(side // 4 + 1, side - side // 4)].mean(axis=(0, 2))
    centres = [int((bit + 0.5) * side) for bit in range(COUNTER_BITS)]
    return sum(int(blocks[centre] > 127) << bit for bit, centre in enumerate(centres))


def open_source(spec: str, size: int, repeat: bool = False) -> Source:
    """Open what `--source` names. Raises SourceError, UsageError.

    spec: a camera number, 'synthetic', or the path of an image or a video. `repeat` makes files
    endless.
    """
    if spec.isdecimal():
        return Camera(int(spec))
    if spec == "synthetic":
        return Synthetic(size)
    if not spec.strip():
        raise UsageError(
            "--source is empty; expected a camera number, a video, an image or 'synthetic'"
        )
    path = Path(spec).expanduser()
    if path.is_dir():
        raise SourceError(
            f"{path}: is a folder; --source takes one file of it, a camera number or 'synthetic'"
        )
    return (
        ImageFile(path, repeat)
        if path.suffix.lower() in IMAGE_SUFFIXES
        else VideoFile(path, repeat)
    )
