"""When to hand a pipelined backend its next frame: as late as possible without starving it.

A frame submitted early waits inside the backend and is stale when shown; one submitted late leaves
the slowest stage idle. With T the time between completions of a busy backend and L the time one
frame takes through an empty one, the frame after the last admitted one should be submitted at
(predicted completion of the last) + T - L, less a small margin.
"""

from collections import deque
from statistics import median

MARGIN_SHARE = 0.1  # of T; also what lets an estimate of T that is too long shrink, frame by frame
MARGIN_NS = 500_000
FOREVER_NS = 1 << 62
FIRST_PATIENCE_NS = (
    50_000_000  # nothing is known yet: wait for a second frame no longer than a slow camera takes
)
REMEASURE_FRAMES = 300  # how often the pipeline is let run empty to measure L afresh


class Admission:
    """Decide between submitting a frame and collecting the oldest. Times are perf_counter_ns."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        # Time, and whether the backend was empty then.
        self._submitted: deque[tuple[int, bool]] = deque()
        self._intervals: deque[int] = deque(maxlen=8)
        self._latency = 0
        self._last_done = 0
        self._since_measured = 0

    def window_ns(self) -> tuple[int, int] | None:
        """When the next frame may be submitted: not before the first time, not after the second.

        After the second the oldest frame is due and should be collected instead. None: the oldest
        must be collected first.
        """
        waiting = len(self._submitted)
        if waiting == 0:
            return 0, FOREVER_NS
        if waiting >= self._depth or self._since_measured >= REMEASURE_FRAMES:
            return None
        if not self._latency:
            return 0, self._submitted[0][0] + FIRST_PATIENCE_NS
        if not self._intervals:
            return 0, self._submitted[0][0] + self._latency
        period = int(median(self._intervals))
        done = self._last_done
        finishes = []
        for submitted, _ in self._submitted:
            done = max(submitted + self._latency, done + period)
            finishes.append(done)
        due = finishes[-1] + period - self._latency - MARGIN_NS - int(MARGIN_SHARE * period)
        return (due, finishes[0]) if due < finishes[0] else None

    def submitted(self, now_ns: int) -> None:
        """A frame has gone in."""
        self._submitted.append((now_ns, not self._submitted))

    def collected(self, now_ns: int) -> None:
        """The oldest frame has come out."""
        submitted, was_empty = self._submitted.popleft()
        self._since_measured += 1
        if was_empty:
            self._latency, self._since_measured = now_ns - submitted, 0
        if self._last_done > submitted or not was_empty:
            self._intervals.append(now_ns - max(self._last_done, submitted))
        self._last_done = now_ns

    def forget_times(self) -> None:
        """Measure anew: the process was stopped meanwhile."""
        self._latency = 0
        self._intervals.clear()
