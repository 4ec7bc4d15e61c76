"""Measure how near a picture is to another: structural similarity of brightness.

`temporal.psnr` is the other measure. Both take uint8 pictures of (H, W, 3) RGB.
"""

import numpy as np

from .opencv import cv2

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_WINDOW, _SIGMA = (11, 11), 1.5


def luma(picture: np.ndarray) -> np.ndarray:
    """Return the brightness of a float32 (H, W, 3) RGB picture, float32 (H, W)."""
    return picture @ _LUMA


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Return the structural similarity of brightness (Wang et al. 2004), window 11, sigma 1.5."""
    x, y = (luma(p.astype(np.float32)).astype(np.float64) for p in (a, b))

    def mean(plane: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(plane, _WINDOW, _SIGMA)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    both = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((light * (2 * both + c2) / (var_x + var_y + c2)).mean())
