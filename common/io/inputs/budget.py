"""So many a second and no more: what keeps a flood from taking a machine's time."""

import time
from collections.abc import Callable


class Budget:
    """Grants `rate` a second, and `most` at once after a pause. One thread, or under a lock."""

    def __init__(
        self, rate: float, most: float, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._most, self._now_s = rate, most, now_s
        self._left, self._looked_s = most, now_s()

    def wait_s(self, least: float = 1) -> float:
        """Take one and return 0, or take none and return the seconds until there are `least`."""
        now_s = self._now_s()
        self._left = min(self._most, self._left + (now_s - self._looked_s) * self._rate)
        self._looked_s = now_s
        if self._left < 1:
            return (least - self._left) / self._rate
        self._left -= 1
        return 0.0
