"""Limits of time that do not run while the process is stopped (Ctrl-Z, SIGSTOP, a sleeping Mac)."""

import time
from collections.abc import Callable

MOST_STEP_S = 0.5  # whoever waits looks more often, unless it is stopped


class Patience:
    """Time that was waited, without that in which nobody could.

    A waiter looks several times a second. What lies between two looks counts as half a second at
    most: if it was more, the process did not run.
    """

    def __init__(
        self, limit_s: float = float("inf"), now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_s, self._now = limit_s, now
        self._looked_s, self._waited_s = now(), 0.0

    def waited_s(self) -> float:
        """Look, and return the seconds that were waited."""
        now = self._now()
        self._waited_s += min(now - self._looked_s, MOST_STEP_S)
        self._looked_s = now
        return self._waited_s

    def left_s(self) -> float:
        """Look, and return the seconds that are left, 0 at least."""
        return max(0.0, self._limit_s - self.waited_s())
