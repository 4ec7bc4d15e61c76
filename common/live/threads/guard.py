"""Failure hand-over: a thread's exception is kept for the main thread, which raises it."""

import threading
from collections.abc import Callable, Sequence

from ...patience import Patience


class Guard:
    """Runs the loop's threads and keeps the first exception that one of them raised."""

    def __init__(
        self, works: Sequence[tuple[str, Callable[[], None]]], on_failure: Callable[[], None]
    ) -> None:
        """works: name and work of each thread. on_failure: called by a thread that failed."""
        self.failure: BaseException | None = None
        self.threads = [
            threading.Thread(target=self._watch, args=(work,), name=name, daemon=True)
            for name, work in works
        ]
        self._on_failure = on_failure

    def _watch(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed to the main thread, which raises it
            self.failure = self.failure or error
            self._on_failure()

    @property
    def alive(self) -> bool:
        """Whether a thread still runs."""
        return any(thread.is_alive() for thread in self.threads)

    def join(self, patience_s: Callable[[], float], look_s: float) -> None:
        """Wait for the threads, the last one first; leave behind whatever does not end in time.

        patience_s: asked every `look_s`, because a signal may shorten it.
        """
        patience = Patience()
        for thread in reversed(self.threads):
            while thread.is_alive() and (left := patience_s() - patience.waited_s()) > 0:
                thread.join(min(left, look_s))
