"""A moving test card with a frame counter in it."""

import numpy as np

from ...backend import copies
from ...picture.opencv import cv2

COUNTER_BITS = 20


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
    """Read the number that `write_counter` drew, also after lossy coding.

    picture: (H, W, 3) of any colour order.
    """
    side = picture.shape[1] // COUNTER_BITS
    blocks = picture[side // 4 : max(side // 4 + 1, side - side // 4)].mean(axis=(0, 2))
    centres = [int((bit + 0.5) * side) for bit in range(COUNTER_BITS)]
    return sum(int(blocks[centre] > 127) << bit for bit, centre in enumerate(centres))
