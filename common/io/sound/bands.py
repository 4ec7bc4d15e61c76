"""How loud sound is in all and by bands, a hundred times a second, by the FFT of a short window.

The figures of a moment depend on the samples alone, not on the blocks in which they come: the same
file gives the same figures, however it is read.
"""

from typing import Protocol

import numpy as np

# Hz; what a rate of samples cannot carry is silent
BANDS = {"low": (20.0, 250.0), "mid": (250.0, 2500.0), "high": (2500.0, 16000.0)}
NAMES = ("level", *BANDS)
HOPS_A_SECOND = 100
WINDOW_S = 0.04  # at least; 25 Hz tell a bass drum from a voice
LEAST_RATE, MOST_RATE = 4000.0, 768000.0
MOST_CHANNELS = 64


class Ear(Protocol):
    """Anything that hears. One thread."""

    @property
    def name(self) -> str:
        """What a user calls it, for messages."""

    @property
    def is_live(self) -> bool:
        """Whether it hears now, and is no file with a time of its own."""

    def start(self) -> None:
        """Begin to listen. Raises UsageError."""

    def hear(self, at_s: float) -> np.ndarray:
        """Return what is new: see `Analyser.take`. at_s: the time in a file.

        Raises EarLost if there is no more to come.
        """

    def complaint(self) -> str:
        """Return what a user should know of what is heard, or ''."""

    def close(self) -> None:
        """Stop and free everything; calling it again does nothing."""


class EarLost(Exception):
    """A device is gone. The text says which and why."""


class Analyser:
    """Turns samples into amplitudes. One thread."""

    def __init__(self, rate: float, channels: int) -> None:
        """rate: samples a second, LEAST_RATE to MOST_RATE."""
        self.wrong = 0  # samples that were no numbers
        self._rate = rate
        size = 1 << int(np.ceil(np.log2(rate * WINDOW_S)))
        self._window = np.hanning(size + 1)[:-1, None].astype(np.float32)
        self._power = float(np.sum(self._window**2)) * size
        self._kept = np.zeros((size, channels), np.float32)  # before the first sample is silence
        self._taken, self._hops = 0, 0
        frequencies = np.fft.rfftfreq(size, 1 / rate)
        self._bands = [
            slice(*np.searchsorted(frequencies, (low, high))) for low, high in BANDS.values()
        ]

    def take(self, samples: np.ndarray) -> np.ndarray:
        """Return the amplitudes of the hops that end in these samples.

        samples: float (N, channels), full scale 1; what is no number counts as silence, and what is
        beyond full scale is clipped. Returns float64 (hops, 4): root mean squares, in the order of
        NAMES. The channels' powers are averaged, so that opposite phases do not cancel.
        """
        size = len(self._kept)
        heard = np.concatenate([self._kept, self._clean(samples)])
        found = []
        while (end := self._end(self._hops + 1)) <= self._taken + len(samples):
            first = end - self._taken  # in `heard`, which begins a window before
            found.append(self._amplitudes(heard[first : first + size]))
            self._hops += 1
        self._kept, self._taken = heard[len(heard) - size :], self._taken + len(samples)
        return np.array(found).reshape(-1, len(NAMES))

    def _end(self, hop: int) -> int:
        """Return the number of samples at the end of a hop, which the rate may not divide."""
        return round(hop * self._rate / HOPS_A_SECOND)

    def _clean(self, samples: np.ndarray) -> np.ndarray:
        taken = np.asarray(samples, np.float32)
        finite = np.isfinite(taken)
        if not finite.all():
            self.wrong += int(finite.size - np.count_nonzero(finite))
            taken = np.where(finite, taken, np.float32(0))
        return np.clip(taken, -1, 1)

    def _amplitudes(self, heard: np.ndarray) -> np.ndarray:
        weighed = heard * self._window
        # of both halves of the spectrum (Parseval)
        powers = 2 * np.mean(np.abs(np.fft.rfft(weighed, axis=0)) ** 2, axis=1) / self._power
        level = float(np.mean(weighed**2)) * len(weighed) ** 2 / self._power
        return np.sqrt([level, *(float(np.sum(powers[band])) for band in self._bands)])
