"""Steadiness over time: smoothing, blending, skipping unchanged frames, and measuring flicker."""

import numpy as np

from ..backend import copies
from .opencv import cv2

THUMBNAIL = 64
STATIC_LEVELS = 3.0  # a pixel whose input changed by no more is counted as static


class Smoother:
    """Exponential moving average of pictures, and a blend with the camera.

    The state is float32: an 8-bit state stops moving once the change rounds to nothing.
    """

    def __init__(self, size: int) -> None:
        self._state = np.zeros((size, size, 3), np.float32)
        self._fresh = True

    def apply(self, picture: np.ndarray, camera: np.ndarray, ema: float, blend: float) -> None:
        """Smooth `picture`, uint8 (S, S, 3), in place: `ema` is the weight of the past, `blend` of
        the camera.
        """
        if ema > 0:
            if self._fresh:
                np.copyto(self._state, picture)
            else:
                cv2.accumulateWeighted(picture, self._state, 1 - ema)
            cv2.convertScaleAbs(self._state, dst=picture)
            copies.count("smoothing", self._state.nbytes + picture.nbytes)
        self._fresh = ema <= 0
        if blend > 0:
            cv2.addWeighted(picture, 1 - blend, camera, blend, 0, dst=picture)
            copies.count("blend", picture.nbytes)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """Luminance of an RGB picture, averaged down to float32 (64, 64)."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    side = min(THUMBNAIL, picture.shape[0])
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)


class Similarity:
    """Tell whether a picture differs from the last one that was rendered.

    threshold: mean absolute luminance difference in levels of 255 up to which pictures count as
    the same. 0 asks for equality of every pixel; a negative threshold finds nothing similar.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._reference: np.ndarray | None = None

    def is_similar(self, picture: np.ndarray) -> bool:
        """Compare with the reference; a picture that differs becomes the new reference."""
        if self._threshold < 0:
            return False
        candidate = picture if self._threshold == 0 else thumbnail(picture)
        reference = self._reference
        if reference is not None:
            if self._threshold == 0:
                similar = np.array_equal(candidate, reference)
            else:
                similar = float(np.abs(candidate - reference).mean()) <= self._threshold
            if similar:
                return True
        self._reference = candidate.copy()
        copies.count("similarity", candidate.nbytes)
        return False

    def forget(self) -> None:
        """Find the next picture different, whatever it is."""
        self._reference = None


class Flicker:
    """How much steadier or less steady the output is than the input, where the input stands still.

    For each pair of neighbouring frames, the mean absolute luminance change of input and output
    over the pixels whose input changed by at most 3 levels. A ratio under 1 means that the
    output is steadier than the camera.
    """

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._input = 0.0
        self._output = 0.0
        self.pairs = 0

    def add(self, camera: np.ndarray, picture: np.ndarray) -> None:
        """Take the next shown frame, both uint8 (S, S, 3) RGB."""
        now = thumbnail(camera), thumbnail(picture)
        if self._last is not None:
            moved = np.abs(now[0] - self._last[0])
            static = moved <= STATIC_LEVELS
            if static.any():
                self._input += float(moved[static].mean())
                self._output += float(np.abs(now[1] - self._last[1])[static].mean())
                self.pairs += 1
        self._last = now

    def restart(self) -> None:
        """Do not compare the next frame with the last: the prompt changed on purpose."""
        self._last = None

    @property
    def input_levels(self) -> float:
        """Mean change of the static input, in levels of 255."""
        return self._input / self.pairs if self.pairs else 0.0

    @property
    def output_levels(self) -> float:
        """Mean change of the output there, in levels of 255."""
        return self._output / self.pairs if self.pairs else 0.0

    @property
    def ratio(self) -> float | None:
        """Output over input; None if the input never changed at all."""
        return self._output / self._input if self._input else None


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB; infinite if they are equal."""
    error = float(np.mean(np.square(a.astype(np.float32) - b.astype(np.float32))))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
