"""What a sensor of energy is, and the counter that begins again at 0."""

from collections.abc import Mapping
from typing import Protocol


class Sensor(Protocol):
    """A source of energy readings.

    Making one opens it; raises SensorError where it is not available, with the reason.

    name: of the source. how: what its figures hold, in a few words. channels: those of
    `model.energy.CHANNELS` that it reads. silent: channels that it should read and does not, with
    the reason.
    """

    name: str
    how: str
    channels: tuple[str, ...]
    silent: Mapping[str, str]

    def read(self) -> dict[str, float]:
        """Return joules since some start, by channel. Raises SensorError."""

    def close(self) -> None:
        """Let go of the source; a second call does nothing."""


class Wrapping:
    """Turn a counter that begins again at 0 after `most` into one that does not."""

    def __init__(self, most: int) -> None:
        """most: the counter's largest value; 0 where it never wraps."""
        self._most = most
        self._last = 0
        self._rounds = 0

    def __call__(self, value: int) -> int:
        """Return the whole count, from the counter's value."""
        if self._most and value < self._last:
            self._rounds += 1
        self._last = value
        return value + self._rounds * (self._most + 1)
