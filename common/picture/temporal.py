"""Steady the picture over time: smoothing, blending, skipping static frames, measuring flicker."""

import numpy as np

from ..backend import copies
from .opencv import cv2
from .size import FrameSize, Size

THUMBNAIL = 64
STATIC_LEVELS = 3.0  # largest input change of a static pixel


class Smoother:
    """Smooth pictures by an exponential moving average and blend them with the camera.

    The average is float32: an 8-bit average stops once the change rounds to 0.
    """

    def __init__(self, size: Size) -> None:
        self._state = np.zeros((*FrameSize.of(size).shape, 3), np.float32)
        self._fresh = True

    def apply(self, picture: np.ndarray, camera: np.ndarray, ema: float, blend: float) -> None:
        """Smooth `picture`, uint8 (H, W, 3), in place.

        ema: weight of the past. blend: weight of the camera. Both 0 to 1.
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
    """Return the luminance of an RGB picture, averaged down to at most float32 (64, 64)."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    height, width = (min(THUMBNAIL, side) for side in grey.shape)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


class Similarity:
    """Tell whether a picture is similar to the last rendered one.

    threshold: largest mean absolute luminance difference of similar pictures, in levels of 255. 0
    requires equal pixels; with a negative threshold no pictures are similar.
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
        """Forget the reference, so the next picture counts as different."""
        self._reference = None


class Flicker:
    """Measure the flicker of the output relative to the input, over static pixels.

    A pixel is static if its input changed by at most 3 levels between two successive frames. The
    measure is the mean absolute luminance change of these pixels, in input and output. A ratio
    below 1 means that the output is steadier than the camera.

    pairs: of frames that were compared. Around what moves, a network's output moves over static
    pixels, too: that is no flicker.
    """

    def __init__(self, least_static: float = 0.0) -> None:
        """least_static: share of static pixels from which two frames are compared."""
        self._least_static = least_static
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._input = 0.0
        self._output = 0.0
        self.pairs = 0

    def add(self, camera: np.ndarray, picture: np.ndarray) -> None:
        """Add the next shown frame; both pictures are uint8 (H, W, 3) RGB."""
        now = thumbnail(camera), thumbnail(picture)
        if self._last is not None:
            moved = np.abs(now[0] - self._last[0])
            static = moved <= STATIC_LEVELS
            if static.any() and static.mean() >= self._least_static:
                self._input += float(moved[static].mean())
                self._output += float(np.abs(now[1] - self._last[1])[static].mean())
                self.pairs += 1
        self._last = now

    def restart(self) -> None:
        """Skip the comparison of the next frame with the last, for example after a new prompt."""
        self._last = None

    @property
    def input_levels(self) -> float:
        """Mean change of the static input, in levels of 255."""
        return self._input / self.pairs if self.pairs else 0.0

    @property
    def output_levels(self) -> float:
        """Mean change of the output over static input, in levels of 255."""
        return self._output / self.pairs if self.pairs else 0.0

    @property
    def ratio(self) -> float | None:
        """Output change over input change; None if the input never changed."""
        return self._output / self._input if self._input else None


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 pictures in dB; infinite if equal."""
    error = float(np.mean(np.square(a.astype(np.float32) - b.astype(np.float32))))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
