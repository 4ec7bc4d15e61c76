"""What a session did, counted and timed as it happens, and its summary."""

import random
import resource
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field

import numpy as np

from ..backend.description import Description
from ..picture.temporal import Flicker, psnr
from .threads.frames import LiveFrame

SCHEMA = 1
FPS_WINDOW_S = 2.0
STANDS_STILL = (
    0.75  # share of static pixels of a camera that stands still; a slow pan has up to 0.7
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of a series."""

    p50: float
    p95: float
    p99: float


class Series:
    """Values of a session of any length in bounded memory.

    Up to `MOST` values all are kept; from then on a uniform random sample of that size (Vitter
    1985, algorithm R), so that a set of many hours costs no more than one of ten minutes.
    """

    MOST = 36_000

    def __init__(self) -> None:
        self._values = np.empty(1024, np.float32)
        self._count = 0
        self._random = random.Random(0)

    def add(self, value: float) -> None:
        at = self._count if self._count < self.MOST else self._random.randrange(self._count + 1)
        self._count += 1
        if at >= self.MOST:
            return
        if at >= len(self._values):
            self._values = np.resize(self._values, min(self.MOST, 2 * len(self._values)))
        self._values[at] = value

    def __len__(self) -> int:
        return self._count

    def spread(self) -> Spread:
        """Percentiles of what was added; all zero if that is nothing."""
        kept = self._values[: min(self._count, self.MOST)]
        if not len(kept):
            return Spread(0.0, 0.0, 0.0)
        return Spread(*(round(float(p), 3) for p in np.percentile(kept, [50, 95, 99])))


@dataclass(slots=True)
class Summary:
    """The figures of a session; times in milliseconds, memory in bytes, flicker in levels of 255
    over the pairs of frames in which the camera stood still. no_pictures: frames that a backend
    rendered to no picture (`check_picture`), for which the last good one was shown.

    Unless the session failed or left a thread behind, every frame is accounted for: captured =
    shown + both kinds of dropped + under_way_at_end, the last being those between capture and
    display when the session ended.
    """

    schema: int
    seconds: float
    captured: int
    dropped_before_inference: int
    inferred: int
    skipped_as_similar: int
    no_pictures: int
    dropped_before_display: int
    under_way_at_end: int
    shown: int
    fps: float
    latency_ms: Spread
    stages_ms: dict[str, Spread]
    flicker: dict[str, float | int | None]
    psnr_db: Spread | None
    identical_frames: int
    backends: list[dict[str, str]]
    memory: list[dict[str, int]]
    process_peak_bytes: int
    ended: str

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(slots=True)
class Stats:
    """Counters of one session; each is written by one thread: capture, inference or display."""

    backend_count: int = 1
    captured: int = 0
    inferred: int = 0
    skipped: int = 0
    no_pictures: int = 0
    shown: int = 0
    latency_ms: Series = field(default_factory=Series)
    stage_ms: dict[str, Series] = field(default_factory=dict)
    psnr_db: Series = field(default_factory=Series)
    identical: int = 0
    flicker: Flicker = field(default_factory=lambda: Flicker(STANDS_STILL))
    backends: list[Description] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)
    first_shown_ns: int = 0
    last_shown_ns: int = 0
    # Of Ctrl-Z and the like, which is not a part of the session; written by the main thread.
    stopped_ns: int = 0
    continued_ns: int = 0
    _stopped_while_shown_ns: int = 0
    _recent_ns: deque[int] = field(default_factory=deque)
    _recent_latency_ms: deque[float] = field(default_factory=lambda: deque(maxlen=30))

    def frame_shown(self, frame: LiveFrame, shown_ns: int) -> None:
        """Account for a frame that has just reached every sink.

        The times of one that was under way while the process was stopped are left out.
        """
        self.shown += 1
        self.first_shown_ns = self.first_shown_ns or shown_ns
        self.last_shown_ns = shown_ns
        self._recent_ns.append(shown_ns)
        while shown_ns - self._recent_ns[0] > FPS_WINDOW_S * 1e9:
            self._recent_ns.popleft()
        if frame.captured_ns < self.continued_ns:
            return
        latency_ms = (shown_ns - frame.captured_ns) / 1e6
        self.latency_ms.add(latency_ms)
        self._recent_latency_ms.append(latency_ms)
        for stage, duration_ns in frame.stage_ns.items():
            self.stage_ms.setdefault(stage, Series()).add(duration_ns / 1e6)

    def continued(self, since_ns: int, now_ns: int) -> None:
        """Leave out the time in which the process was stopped. Main thread, or a signal handler."""
        self.stopped_ns += now_ns - since_ns
        self.continued_ns = now_ns
        if self.first_shown_ns:
            self._stopped_while_shown_ns += now_ns - since_ns

    def compared(self, first: np.ndarray, second: np.ndarray) -> None:
        """Record the PSNR of one frame by two backends; equal pictures are counted instead."""
        difference = psnr(first, second)
        if np.isfinite(difference):
            self.psnr_db.add(difference)
        else:
            self.identical += 1

    @property
    def fps(self) -> float:
        """Rate over the last two seconds."""
        if len(self._recent_ns) < 2:
            return 0.0
        return (len(self._recent_ns) - 1) * 1e9 / (self._recent_ns[-1] - self._recent_ns[0])

    @property
    def recent_latency_ms(self) -> float:
        """Median over the last 30 frames."""
        return float(np.median(self._recent_latency_ms)) if self._recent_latency_ms else 0.0

    def summary(
        self, began_ns: int, dropped: tuple[int, int], ended: str, under_way: int = 0
    ) -> Summary:
        """Close the books."""
        span = (self.last_shown_ns - self.first_shown_ns - self._stopped_while_shown_ns) / 1e9
        return Summary(
            schema=SCHEMA,
            seconds=round((time.perf_counter_ns() - began_ns - self.stopped_ns) / 1e9, 3),
            captured=self.captured,
            dropped_before_inference=dropped[0],
            inferred=self.inferred,
            skipped_as_similar=self.skipped,
            no_pictures=self.no_pictures,
            dropped_before_display=dropped[1],
            under_way_at_end=under_way,
            shown=self.shown,
            fps=round((self.shown - 1) / span, 3) if span > 0 else 0.0,
            latency_ms=self.latency_ms.spread(),
            stages_ms={stage: values.spread() for stage, values in self.stage_ms.items()},
            flicker={
                "input_levels": round(self.flicker.input_levels, 4),
                "output_levels": round(self.flicker.output_levels, 4),
                "pairs": self.flicker.pairs,
                "ratio": None if self.flicker.ratio is None else round(self.flicker.ratio, 4),
            },
            psnr_db=self.psnr_db.spread() if self.psnr_db else None,
            identical_frames=self.identical,
            backends=[said.as_dict() for said in self.backends],
            memory=self.memory,
            process_peak_bytes=process_peak_bytes(),
            ended=ended,
        )


def process_peak_bytes() -> int:
    """Largest resident size this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
