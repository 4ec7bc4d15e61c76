"""Short seeded clips for measuring flicker, from the free photographs in `docs/demo`.

A clip is an iterator of uint8 (S, S, 3) RGB frames; None stands for a cut.
"""

from collections.abc import Callable, Iterator

import numpy as np

from ....common.checkpoint.find import PACKAGE_FOLDER
from ....common.picture.opencv import cv2
from . import photographs
from .demo_clip import FOLDER, PHOTOGRAPHS

FRAMES = 8
SENSOR_NOISE = 3.0  # levels of 255, what a webcam shows indoors


def _stills(size: int) -> Iterator[np.ndarray]:
    for name in PHOTOGRAPHS:
        yield photographs.centre_square(photographs.read(FOLDER / f"{name}.jpg"), size)


def _grainy(picture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    noisy = picture + generator.normal(0, SENSOR_NOISE, picture.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def tripod(size: int) -> Iterator[np.ndarray | None]:
    """A camera on a tripod: sensor noise, and an exposure that drifts by one level a frame."""
    generator = np.random.Generator(np.random.PCG64(1))
    for still in _stills(size):
        for k in range(FRAMES):
            yield _grainy(still + float(k), generator)
        yield None


def hand(size: int) -> Iterator[np.ndarray | None]:
    """Film a still camera in the hand: sensor noise, and a tremble of up to half a pixel."""
    generator = np.random.Generator(np.random.PCG64(2))
    for still in _stills(size):
        for _ in range(FRAMES):
            dx, dy = generator.uniform(-0.5, 0.5, 2)
            matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
            moved = cv2.warpAffine(
                still, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            yield _grainy(moved.astype(np.float32), generator)
        yield None


def pan(size: int) -> Iterator[np.ndarray | None]:
    """Read `docs/demo/clip.mp4`, where everything moves: its changes are meant, not flicker."""
    video = cv2.VideoCapture(str(PACKAGE_FOLDER / "docs" / "demo" / "clip.mp4"))
    number = 0
    while True:
        ok, frame = video.read()
        if not ok:
            break
        if number and number % 20 == 0:
            yield None  # the next photograph
        if number % 2 == 0:
            yield photographs.centre_square(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), size)
        number += 1
    video.release()


CLIPS: dict[str, Callable[[int], Iterator[np.ndarray | None]]] = {
    "tripod": tripod,
    "hand": hand,
    "pan": pan,
}
