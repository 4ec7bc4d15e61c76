"""What a session did, counted and timed as it happens, and its summary."""

import resource
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field

import numpy as np

from .frames import Frame
from .temporal import Flicker, psnr

SCHEMA = 1
FPS_WINDOW_S = 2.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of a series; all zero if it is empty."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        if not values:
            return cls(0.0, 0.0, 0.0)
        return cls(*(round(float(p), 3) for p in np.percentile(values, [50, 95, 99])))


@dataclass(slots=True)
class Summary:
    """The figures of a session; times in milliseconds, memory in bytes, flicker in levels of 255."""

    schema: int
    seconds: float
    captured: int
    dropped_before_inference: int
    inferred: int
    skipped_as_similar: int
    dropped_before_display: int
    shown: int
    fps: float
    latency_ms: Spread
    stages_ms: dict[str, Spread]
    flicker: dict[str, float | None]
    psnr_db: Spread | None
    backends: list[dict[str, str]]
    memory: list[dict[str, int]]
    process_peak_bytes: int
    ended: str

    def as_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(slots=True)
class Stats:
    """Counters of one session. The display thread owns them, apart from `inferred` and `skipped`."""

    backend_count: int = 1
    captured: int = 0
    inferred: int = 0
    skipped: int = 0
    shown: int = 0
    latency_ms: list[float] = field(default_factory=list)
    stage_ms: dict[str, list[float]] = field(default_factory=dict)
    psnr_db: list[float] = field(default_factory=list)
    flicker: Flicker = field(default_factory=Flicker)
    backends: list[dict[str, str]] = field(default_factory=list)
    memory: list[dict[str, int]] = field(default_factory=list)
    first_shown_ns: int = 0
    last_shown_ns: int = 0
    _recent_ns: deque[int] = field(default_factory=deque)

    def frame_shown(self, frame: Frame, shown_ns: int) -> None:
        """Account for a frame that has just reached every sink."""
        self.shown += 1
        self.first_shown_ns = self.first_shown_ns or shown_ns
        self.last_shown_ns = shown_ns
        self.latency_ms.append((shown_ns - frame.captured_ns) / 1e6)
        for stage, duration_ns in frame.stage_ns.items():
            self.stage_ms.setdefault(stage, []).append(duration_ns / 1e6)
        if len(frame.outputs) == 2:
            self.psnr_db.append(psnr(*frame.outputs))
        self._recent_ns.append(shown_ns)
        while shown_ns - self._recent_ns[0] > FPS_WINDOW_S * 1e9:
            self._recent_ns.popleft()

    @property
    def fps(self) -> float:
        """Rate over the last two seconds."""
        if len(self._recent_ns) < 2:
            return 0.0
        return (len(self._recent_ns) - 1) * 1e9 / (self._recent_ns[-1] - self._recent_ns[0])

    @property
    def recent_latency_ms(self) -> float:
        """Median over the last 30 frames."""
        return float(np.median(self.latency_ms[-30:])) if self.latency_ms else 0.0

    def summary(self, began_ns: int, dropped: tuple[int, int], ended: str) -> Summary:
        """Close the books."""
        span = (self.last_shown_ns - self.first_shown_ns) / 1e9
        finite = [value for value in self.psnr_db if np.isfinite(value)]
        return Summary(
            schema=SCHEMA,
            seconds=round((time.perf_counter_ns() - began_ns) / 1e9, 3),
            captured=self.captured,
            dropped_before_inference=dropped[0],
            inferred=self.inferred,
            skipped_as_similar=self.skipped,
            dropped_before_display=dropped[1],
            shown=self.shown,
            fps=round((self.shown - 1) / span, 3) if span > 0 else 0.0,
            latency_ms=Spread.of(self.latency_ms),
            stages_ms={stage: Spread.of(values) for stage, values in self.stage_ms.items()},
            flicker={
                "input_levels": round(self.flicker.input_levels, 4),
                "output_levels": round(self.flicker.output_levels, 4),
                "ratio": None if self.flicker.ratio is None else round(self.flicker.ratio, 4),
            },
            psnr_db=Spread.of(finite) if self.backend_count == 2 else None,
            backends=self.backends,
            memory=self.memory,
            process_peak_bytes=process_peak_bytes(),
            ended=ended,
        )


def process_peak_bytes() -> int:
    """Largest resident size this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
