"""Measure what the camera loop costs: rate, age of the picture, drops.

Run as `python -m sdxs.experiments loop [--json PATH] [--seconds 10] [--rounds 3]`. Ages are
glass to glass: from the camera's tick to the sink that reads the frame's number out of the
picture. The paper's stage times (5 + 5 + 24.4 + 5 + 5 ms, its Phase 6) go through our loop as it
ran them, one after the other, then with pre and post off the inference thread, then with three
stages in a pipeline. Exits with 1 if a target is missed: by the median of the rounds, or, for what
must be exact, in any round.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ...common.backend.options import BackendOptions
from ...common.backend.process.hosted import HostedBackend
from ...common.backend.protocol import Backend, FrameParams
from ...common.live.look import Look
from ...common.live.stats import Summary
from ...common.live.threads.frames import LiveFrame
from ...common.live.threads.loop import Loop, LoopOptions, Prompt
from ...common.live.viewer import Viewer
from ...common.settings import setting
from ...common.testing.fakes import (
    BACKEND_MS,
    ComputingBackend,
    CountingSink,
    GilBackend,
    SleepingBackend,
    StagedBackend,
    TickingCamera,
)
from .. import record
from ..options import Options, result_file

SIZE = 512
WARM_UP_S = 1.0
PRE_MS = POST_MS = 5.0
INNER_MS = sum(StagedBackend.stages_ms)


@dataclass(frozen=True, slots=True)
class Target:
    """What the median of a case's rounds must reach; None where nothing is asked."""

    least_of_ideal: float | None = None
    least_fps: float | None = None
    most_age_p95_ms: float | None = None
    most_overhead_ms: float | None = None


# A hosted backend that holds the GIL must come within 1.1 of those that do not.
FREE = Target(least_of_ideal=0.97, most_age_p95_ms=50, most_overhead_ms=1)
HOSTED = Target(least_of_ideal=0.97 / 1.1, most_age_p95_ms=50 * 1.1, most_overhead_ms=1 * 1.1)


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: its backend and its goals. Milliseconds; rates per second."""

    name: str
    make: Callable[[BackendOptions], Backend]
    ideal_fps: float
    target: Target = Target()
    sequential: bool = False
    pre_ms: float = 0.0
    post_ms: float = 0.0


def _hosted(options: BackendOptions) -> Backend:
    return HostedBackend("gil", "sdxs.common.testing.fakes:GilBackend", None, options)


CASES = (
    Case("25 ms sleeping", lambda o: SleepingBackend(None, o), 1000 / BACKEND_MS, FREE),
    Case(
        "25 ms computing, GIL released",
        lambda o: ComputingBackend(None, o),
        1000 / BACKEND_MS,
        FREE,
    ),
    Case("25 ms holding the GIL", lambda o: GilBackend(None, o), 1000 / BACKEND_MS),
    Case("25 ms holding the GIL, hosted", _hosted, 1000 / BACKEND_MS, HOSTED),
    Case(
        "paper's stages, sequential",
        lambda o: SleepingBackend(None, o, ms=INNER_MS),
        1000 / (PRE_MS + INNER_MS + POST_MS),
        Target(least_of_ideal=0.95),
        sequential=True,
        pre_ms=PRE_MS,
        post_ms=POST_MS,
    ),
    Case(
        "paper's stages, threaded",
        lambda o: SleepingBackend(None, o, ms=INNER_MS),
        1000 / INNER_MS,
        Target(least_fps=28),
        pre_ms=PRE_MS,
        post_ms=POST_MS,
    ),
    Case(
        "paper's stages, pipelined",
        lambda o: StagedBackend(None, o),
        1000 / max(StagedBackend.stages_ms),
        Target(least_fps=40),
        pre_ms=PRE_MS,
        post_ms=POST_MS,
    ),
)


def measure(case: Case, seconds: float) -> dict[str, object]:
    """Run one session of `case` and take its figures after the first second."""
    camera = TickingCamera(SIZE, pre_ms=case.pre_ms)
    sink = CountingSink(camera, case.post_ms)
    settings = LoopOptions(SIZE, sequential=case.sequential, skip_threshold=-1)
    prompt = Prompt("", np.zeros((1, 77, 64), np.float32))
    options = BackendOptions(SIZE)
    loop = Loop(
        camera,
        [case.make(options)],
        settings,
        [prompt],
        FrameParams(),
        lambda _: prompt.encoder_hidden_states,
    )
    viewer = Viewer(SIZE, Look(), loop.stats, [sink], None)

    def show(frame: LiveFrame) -> None:
        viewer.show(frame)
        if (sink.shown_ns[-1] - sink.shown_ns[0]) / 1e9 >= seconds + WARM_UP_S:
            loop.stop()

    summary = loop.run(show, lambda: None, viewer.close)
    return _figures(case, sink, summary)


def _figures(case: Case, sink: CountingSink, summary: Summary) -> dict[str, object]:
    began = sink.shown_ns[0] + WARM_UP_S * 1e9
    first = next(i for i, shown in enumerate(sink.shown_ns) if shown >= began)
    first = min(first, len(sink.shown_ns) - 2)  # a rate needs two
    ages = sink.ages_ms[first:]
    span_s = (sink.shown_ns[-1] - sink.shown_ns[first]) / 1e9
    fps = (len(ages) - 1) / span_s
    intervals = np.diff(sink.shown_ns[first:]) / 1e6
    # Every number that was captured was shown, dropped, or on its way when the session ended.
    missing = sink.numbers[-1] + 1 - len(sink.numbers)
    after_last = summary.captured - 1 - sink.numbers[-1]
    dropped = summary.dropped_before_inference + summary.dropped_before_display
    waits = {name: spread.p50 for name, spread in summary.stages_ms.items()}
    return {
        "fps": fps,
        "of_ideal": fps / case.ideal_fps,
        "age_ms": dict(
            zip(("p50", "p95", "p99"), map(float, np.percentile(ages, [50, 95, 99])), strict=True)
        ),
        "overhead_ms": float(np.median(intervals)) - 1000 / case.ideal_fps,
        "stages_ms": waits,
        "missing_before_last_shown": missing,
        "captured_after_last_shown": after_last,
        "counted_drops": dropped,
        "under_way_at_end": summary.under_way_at_end,
        "drops_are_exact": missing + after_last == dropped + summary.under_way_at_end,
        "in_order": sink.numbers == sorted(set(sink.numbers)),
        "shown": summary.shown,
        "captured": summary.captured,
    }


def missed(target: Target, rounds: Sequence[dict[str, object]]) -> list[str]:
    """Say which of a case's targets its rounds do not reach."""

    def median(figure: Callable[[dict[str, object]], object]) -> float:
        return statistics.median(float(figure(r)) for r in rounds)  # type: ignore[arg-type]

    found = (
        ("of_ideal", median(lambda r: r["of_ideal"]), target.least_of_ideal, 1),
        ("fps", median(lambda r: r["fps"]), target.least_fps, 1),
        ("age_ms p95", median(lambda r: r["age_ms"]["p95"]), target.most_age_p95_ms, -1),  # type: ignore[index]
        ("overhead_ms", median(lambda r: r["overhead_ms"]), target.most_overhead_ms, -1),
    )
    complaints = [
        f"{name} {value:.3f}, expected {'at least' if sign > 0 else 'at most'} {limit:.3f}"
        for name, value, limit, sign in found
        if limit is not None and sign * value < sign * limit
    ]
    exact = ("drops_are_exact", "in_order")
    return complaints + [
        f"{name} is false in round {n + 1}"
        for n, r in enumerate(rounds)
        for name in exact
        if not r[name]
    ]


@dataclass(frozen=True, slots=True)
class LoopBenchOptions(Options):
    """How long, and how often."""

    json: Path | None = result_file()
    seconds: float = setting(10.0, "length of each case", minimum=1, unit="s")
    rounds: int = setting(3, "times that each case is measured, in turns", minimum=1)


def run(options: LoopBenchOptions) -> int:
    """Measure every case; return 1 if one misses its target."""
    rounds: dict[str, list[dict[str, object]]] = {case.name: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            figures = measure(case, options.seconds)
            rounds[case.name].append(figures)
            age = figures["age_ms"]
            print(
                f"{case.name:32s} {figures['fps']:5.1f} fps, {figures['of_ideal']:.3f} of ideal; "
                "age "
                + ", ".join(f"{k} {v:.1f}" for k, v in age.items())  # type: ignore[attr-defined]
                + f" ms; overhead {figures['overhead_ms']:.2f} ms; drops {figures['counted_drops']}"
                f" of {figures['captured']}, "
                f"{'exact' if figures['drops_are_exact'] else 'NOT EXACT'}",
                flush=True,
            )
    misses = {case.name: missed(case.target, rounds[case.name]) for case in CASES}
    for name, complaints in misses.items():
        print(
            f"{'MISSED' if complaints else 'good'}: "
            f"{name}{': ' if complaints else ''}{'; '.join(complaints)}"
        )
    if options.json:
        results = [
            {
                "case": {k: v for k, v in asdict(case).items() if k != "make"},
                "missed": misses[case.name],
                "median_fps": statistics.median(r["fps"] for r in rounds[case.name]),  # type: ignore[type-var]
                "rounds": rounds[case.name],
            }
            for case in CASES
        ]
        figures = {"seconds": options.seconds, "camera_fps": 60, "results": results}
        record.write(options.json, figures, options)
    return 1 if any(misses.values()) else 0
