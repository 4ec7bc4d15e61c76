"""Draw the edges of a camera frame for a ControlNet: white on black.

'canny' draws binary lines, one pixel wide, as in the paper. 'soft' draws the smaller of the fine
and the coarse gradient in levels of grey. Noise has no coarse gradient and texture no fine one, so
lines fade instead of flickering.

Both kinds support hysteresis in time. A Canny line stays while a weaker line is near its place. A
soft pixel changes only by more than the noise. All arithmetic is 8-bit OpenCV in the capture
thread, so every backend gets the same edges bit for bit.
"""

from typing import get_args

import numpy as np

from ..errors import UsageError
from .edge_kinds import EdgeKind
from .opencv import cv2
from .size import FrameSize, Size

KINDS: tuple[str, ...] = get_args(EdgeKind)

CANNY = (100, 200)  # OpenCV's customary pair
_CANNY_WEAK = (80, 160)  # thresholds that keep a line of the last frame
SOFT_DARK, SOFT_BRIGHT = 20, 90  # gradients drawn as black and as white
_SOFT_BAND = 48  # a soft pixel changes only by more levels than this
FINE, COARSE = 1.0, 2.5  # sigma of the blur before each gradient, pixels
_NEIGHBOURS = np.ones((3, 3), np.uint8)


class Edges:
    """Draw the edges of successive frames of one size; not thread-safe."""

    def __init__(self, kind: str, size: Size, hysteresis: bool = True) -> None:
        """Raise UsageError for an unknown kind."""
        check_kind(kind)
        self.kind = kind
        self._draw = self._canny if kind == "canny" else self._soft
        self._hysteresis = hysteresis
        self._last: np.ndarray | None = None
        ramp = np.clip((np.arange(256) - SOFT_DARK) / (SOFT_BRIGHT - SOFT_DARK), 0, 1)
        self._levels = np.round(255 * ramp * ramp * (3 - 2 * ramp)).astype(np.uint8)
        self._grey = np.empty(FrameSize.of(size).shape, np.uint8)

    def forget(self) -> None:
        """Forget the last frame, so hysteresis starts again."""
        self._last = None

    def draw(self, picture: np.ndarray, out: np.ndarray) -> None:
        """Write the edges of `picture`, uint8 (H, W, 3) RGB, into `out`, uint8 (H, W)."""
        cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY, dst=self._grey)
        np.copyto(out, self._draw(self._grey))

    def _canny(self, grey: np.ndarray) -> np.ndarray:
        strong = cv2.Canny(grey, *CANNY)
        if not self._hysteresis:
            return strong
        if self._last is not None:
            # A line may shift by a pixel: the old one stays while a weak one is near, and a
            # second one beside it is suppressed.
            weak = cv2.dilate(cv2.Canny(grey, *_CANNY_WEAK), _NEIGHBOURS)
            kept = cv2.bitwise_and(self._last, weak)
            beside = cv2.dilate(kept, _NEIGHBOURS)
            strong = cv2.bitwise_or(kept, cv2.bitwise_and(strong, cv2.bitwise_not(beside)))
        self._last = strong
        return strong

    def _soft(self, grey: np.ndarray) -> np.ndarray:
        half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        coarse = _gradient(cv2.GaussianBlur(half, (0, 0), COARSE / 2))
        coarse = cv2.resize(coarse, grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
        fine = _gradient(cv2.GaussianBlur(grey, (0, 0), FINE))
        found = cv2.LUT(cv2.min(fine, coarse), self._levels)
        if not self._hysteresis:
            return found
        if self._last is None:
            self._last = found
        else:
            change = cv2.absdiff(found, self._last)
            _, moved = cv2.threshold(change, _SOFT_BAND, 255, cv2.THRESH_BINARY)
            cv2.copyTo(found, moved, self._last)
        return self._last


def check_kind(kind: str) -> None:
    """Raise UsageError for an unknown kind of edges."""
    if kind not in KINDS:
        raise UsageError(f"--edges {kind}: expected {' or '.join(KINDS)}")


def _gradient(grey: np.ndarray) -> np.ndarray:
    """Return (|dx| + |dy|) / 2 of an 8-bit picture, in 8 bits."""
    dx, dy = (cv2.Sobel(grey, cv2.CV_16S, *order) for order in ((1, 0), (0, 1)))
    return cv2.addWeighted(
        cv2.convertScaleAbs(dx, alpha=0.5), 1.0, cv2.convertScaleAbs(dy, alpha=0.5), 1.0, 0
    )


def f_score(edges: np.ndarray, reference: np.ndarray, tolerance: int = 2) -> float:
    """Compute the F-score of edge pixels: harmonic mean of precision and recall, 0 to 1.

    edges, reference: uint8 (H, W), edge where above 127. Pixels match within `tolerance` pixels.
    Two pictures without edges score 1.
    """
    a, b = edges > 127, reference > 127
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * tolerance + 1,) * 2)
    near_a, near_b = (cv2.dilate(x.astype(np.uint8), kernel) > 0 for x in (a, b))
    precision, recall = float(near_b[a].mean()), float(near_a[b].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
