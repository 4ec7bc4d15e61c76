"""A moving test card with a frame counter in it."""

import numpy as np

from ...backend import copies
from ...picture.opencv import cv2
from ...picture.size import FrameSize, Size

COUNTER_BITS = 20


class Synthetic:
    """A moving test card, the same every time, whose frame number `read_counter` reads back."""

    name = "synthetic"
    fps = 30.0
    length = None
    paced = True

    def __init__(self, size: Size) -> None:
        self._size = FrameSize.of(size)
        self._card = np.empty((*self._size.shape, 3), np.uint8)
        self._card[..., 0] = np.linspace(0, 255, self._size.width, dtype=np.uint8)
        self._card[..., 1] = np.linspace(0, 255, self._size.height, dtype=np.uint8)[:, None]
        self._card[..., 2] = 128
        self._number = 0

    def read(self) -> np.ndarray:
        size, n = self._size, self._number
        side = min(size.shape)
        self._number += 1
        picture = np.roll(self._card, 2 * n % size.width, axis=1)
        angle = n * 0.05
        centre = (
            round(size.width * (0.5 + 0.3 * np.cos(angle))),
            round(size.height * (0.45 + 0.25 * np.sin(2 * angle))),
        )
        cv2.circle(picture, centre, side // 7, (40, 40, 230), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, side // 7, (255, 255, 255), max(1, side // 100), cv2.LINE_AA)
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
    """Read the number that `write_counter` drew, also after lossy coding.

    picture: (H, W, 3) of any colour order.
    """
    side = picture.shape[1] // COUNTER_BITS
    blocks = picture[side // 4 : max(side // 4 + 1, side - side // 4)].mean(axis=(0, 2))
    centres = [int((bit + 0.5) * side) for bit in range(COUNTER_BITS)]
    return sum(int(blocks[centre] > 127) << bit for bit, centre in enumerate(centres))
