"""Pictures between OpenCV and a backend: square crop, resize, colour order, labels."""

import numpy as np

from ..backend import copies
from .opencv import cv2


def to_square_rgb(picture: np.ndarray, out: np.ndarray, mirror: bool = False) -> None:
    """Fill `out`, uint8 (S, S, 3) RGB, with the centre square of `picture`, uint8 (H, W, 3) BGR.

    mirror: left and right change places, as in a looking glass.
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]  # a view; nothing is copied
    if side != out.shape[0]:
        square = cv2.resize(square, out.shape[:2], interpolation=cv2.INTER_LINEAR)
        copies.count("resize", square.nbytes)
    cv2.cvtColor(square, cv2.COLOR_BGR2RGB, dst=out)
    copies.count("to RGB", out.nbytes)
    if mirror:
        cv2.flip(out, 1, dst=out)  # in place
        copies.count("mirror", out.nbytes)


def enlarged(picture: np.ndarray, height: int, widest: int) -> np.ndarray:
    """Scale a small picture up to `height` pixels, or to as many as `widest` allows; a large one
    is returned as it is.
    """
    factor = min(height / picture.shape[0], widest / picture.shape[1])
    if factor <= 1:
        return picture
    size = round(picture.shape[1] * factor), round(picture.shape[0] * factor)
    return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
