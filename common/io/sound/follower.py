"""From amplitudes to 0 to 1: automatic gain, then attack and release."""

from dataclasses import dataclass

import numpy as np

from .bands import HOPS_A_SECOND, NAMES

QUIETEST = 10 ** (-50 / 20)  # of full scale; what is quieter is not raised to 1
HALVES_S = 10.0  # the automatic gain forgets half of its loudest in this time


@dataclass(frozen=True, slots=True)
class Response:
    """How fast values follow. attack_s, release_s: time constants. gain_db: None for automatic."""

    attack_s: float = 0.01
    release_s: float = 0.2
    gain_db: float | None = None


class Follower:
    """Follows the amplitudes of one ear."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._loudest = np.full(len(NAMES), QUIETEST)
        self._now = np.zeros(len(NAMES))
        self._rise, self._fall = (
            1.0 if seconds <= 0 else 1 - float(np.exp(-1 / (HOPS_A_SECOND * seconds)))
            for seconds in (response.attack_s, response.release_s)
        )

    def follow(self, amplitudes: np.ndarray) -> None:
        """Go on by some hops, float (hops, 4) as of `Analyser.take`."""
        for each in amplitudes:
            wanted = np.minimum(self._raised(each), 1.0)
            share = np.where(wanted > self._now, self._rise, self._fall)
            self._now = self._now + share * (wanted - self._now)

    def value(self, band: str) -> float:
        """Return where a band stands, 0 to 1."""
        return float(self._now[NAMES.index(band)])

    def _raised(self, amplitudes: np.ndarray) -> np.ndarray:
        """Scale amplitudes by the gain, or so that the loudest of late is 1."""
        if self._response.gain_db is not None:
            fixed: np.ndarray = amplitudes * 10 ** (self._response.gain_db / 20)
            return fixed
        fades = 0.5 ** (1 / (HOPS_A_SECOND * HALVES_S))
        self._loudest = np.maximum(np.maximum(self._loudest * fades, amplitudes), QUIETEST)
        raised: np.ndarray = amplitudes / self._loudest
        return raised
