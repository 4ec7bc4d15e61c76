"""Traffic on the memory bus, from processes that do nothing else, at a rate that can be set.

Each copies blocks of a buffer far larger than any cache; bytes are counted as read plus written
(what a write first fetches comes on top of that, unseen). It takes cores as well as bandwidth, so
there is a control: the same processes as busy on a block that stays in the cache.
"""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from os import cpu_count
from types import TracebackType
from typing import Self

import numpy as np

from ...backend.process.child import Child, settle_in
from ...backend.process.messages import Done

MOST_PROCESSES = 16
ALL_BUFFERS_BYTES = 2**30  # of all processes together
BLOCK_BYTES = 2**22
CACHED_BYTES = 2**14
SETTLE_S = 0.3
CATCH_UP_S = 0.05  # a process that was kept from running makes up for no more than this


@dataclass(frozen=True, slots=True)
class SetRate:
    """Traffic in bytes a second, read plus written.

    infinity: as fast as it goes; 0: none. cached: the control.
    """

    bytes_per_s: float
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes since the process began, and when that was looked at.

    copied_bytes: those of the control, within the cache, too.
    """

    moved_bytes: int
    copied_bytes: int
    at_ns: int


class Traffic:
    """All generators together. Raises BackendError if one dies."""

    def __init__(self, processes: int | None = None) -> None:
        """Start them, idle. processes: one for every core but one, at most 16."""
        self.processes = processes or max(1, min((cpu_count() or 1) - 1, MOST_PROCESSES))
        block = ALL_BUFFERS_BYTES // self.processes
        self._children = [Child("memory traffic", serve, block) for _ in range(self.processes)]
        self._before: list[Moved] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.end(None)

    def set_rate(self, bytes_per_s: float, cached: bool = False) -> None:
        """Share a rate out evenly, give it time to settle, and begin to count."""
        for child in self._children:
            child.ask(SetRate(bytes_per_s / self.processes, cached), Done)
        time.sleep(SETTLE_S)
        self._before = self._moved()

    def measured_rate(self) -> float:
        """Bytes a second since `set_rate`; 0 for the control, which moves none."""
        return self._rates()[0]

    def rates(self) -> tuple[float, float]:
        """Bytes a second since `set_rate` or the last call: moved, and copied with the control's.

        Begins to count anew.
        """
        rates = self._rates()
        self._before = self._moved()
        return rates

    def _rates(self) -> tuple[float, float]:
        spans = list(zip(self._moved(), self._before, strict=True))
        seconds = [max(1, now.at_ns - before.at_ns) / 1e9 for now, before in spans]
        moved = [now.moved_bytes - before.moved_bytes for now, before in spans]
        copied = [now.copied_bytes - before.copied_bytes for now, before in spans]
        return (
            sum(size / s for size, s in zip(moved, seconds, strict=True)),
            sum(size / s for size, s in zip(copied, seconds, strict=True)),
        )

    def saturation(self, seconds: float = 1.0) -> float:
        """What they move at most, with nothing else running."""
        self.set_rate(float("inf"))
        time.sleep(seconds)
        rate = self.measured_rate()
        self.set_rate(0)
        return rate

    def _moved(self) -> list[Moved]:
        return [child.ask("moved", Moved) for child in self._children]


class _Copier(threading.Thread):
    """Copy in a thread of its own while the process answers; NumPy releases the GIL meanwhile."""

    def __init__(self, buffer_bytes: int) -> None:
        super().__init__(name="sdxs-traffic", daemon=True)
        blocks = max(2, buffer_bytes // 2 // BLOCK_BYTES)
        # ones, not zeros: untouched zeros would all be the same page of the system's
        self._source = np.ones((blocks, BLOCK_BYTES), np.uint8)
        self._target = np.ones((blocks, BLOCK_BYTES), np.uint8)
        self._cached = np.ones((2, CACHED_BYTES), np.uint8)
        self._rate = SetRate(0)
        self._changed = threading.Event()
        self.moved_bytes = self.copied_bytes = 0

    def set_rate(self, rate: SetRate) -> None:
        self._rate = rate
        self._changed.set()

    def run(self) -> None:
        number, due = 0, time.perf_counter()
        while True:
            rate = self._rate
            if rate.bytes_per_s <= 0:
                self._changed.wait()
                self._changed.clear()
                due = time.perf_counter()
                continue
            if rate.cached:
                for _ in range(BLOCK_BYTES // CACHED_BYTES):
                    np.copyto(self._cached[1], self._cached[0])
            else:
                np.copyto(self._target[number], self._source[number])
                number = (number + 1) % len(self._source)
                self.moved_bytes += 2 * BLOCK_BYTES
            self.copied_bytes += 2 * BLOCK_BYTES
            due = max(due + 2 * BLOCK_BYTES / rate.bytes_per_s, time.perf_counter() - CATCH_UP_S)
            pause = due - time.perf_counter()
            if pause > 0:
                self._changed.wait(pause)
                self._changed.clear()


def serve(pipe: connection.Connection, buffer_bytes: int) -> None:
    """The child: set rates and say what was moved, until told to end or the parent is gone."""
    settle_in()
    copier = _Copier(buffer_bytes)
    copier.start()
    with suppress(EOFError, OSError), pipe:
        while (request := pipe.recv()) is not None:
            if isinstance(request, SetRate):
                copier.set_rate(request)
                pipe.send(Done())
            else:
                moved, copied = copier.moved_bytes, copier.copied_bytes
                pipe.send(Moved(moved, copied, time.perf_counter_ns()))
