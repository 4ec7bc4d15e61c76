"""Convert pictures between OpenCV and a backend: square crop, resize, colour order."""

import numpy as np

from ..backend import copies
from .opencv import cv2


def to_square_rgb(picture: np.ndarray, out: np.ndarray, mirror: bool = False) -> None:
    """Fill `out`, uint8 (S, S, 3) RGB, with the centre square of `picture`, uint8 (H, W, 3) BGR.

    mirror: flip left and right. A larger picture is averaged to the next size above, by a whole
    number of pixels, and then interpolated.
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]  # a view; nothing is copied
    square = _averaged(square, side // out.shape[0])
    if square.shape[0] != out.shape[0]:
        square = cv2.resize(square, out.shape[:2], interpolation=cv2.INTER_LINEAR)
        copies.count("resize", square.nbytes)
    cv2.cvtColor(square, cv2.COLOR_BGR2RGB, dst=out)
    copies.count("to RGB", out.nbytes)
    if mirror:
        cv2.flip(out, 1, dst=out)  # in place
        copies.count("mirror", out.nbytes)


def _averaged(square: np.ndarray, times: int) -> np.ndarray:
    """Return a picture of 1/times the side, uint8, where each pixel is the mean of times x times.

    Linear interpolation reads two pixels a side and skips the rest, which flickers where the
    picture moves. Means over whole pixels are several times faster than over parts of pixels, and
    over two by two the fastest.
    """
    while times > 1:
        step = 2 if times % 2 == 0 else times
        times //= step
        side = square.shape[0] // step
        square = cv2.resize(
            square[: side * step, : side * step], (side, side), interpolation=cv2.INTER_AREA
        )
        copies.count("resize", square.nbytes)
    return square


def enlarged(picture: np.ndarray, height: int, widest: int) -> np.ndarray:
    """Enlarge a picture to at most `height` by `widest` pixels; return a larger one unchanged."""
    factor = min(height / picture.shape[0], widest / picture.shape[1])
    if factor <= 1:
        return picture
    size = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
