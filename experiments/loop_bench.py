"""What the camera loop costs: rate, age of the picture, drops, with backends of known timing.

Run as `python -m sdxs.experiments.loop_bench [--json PATH] [--seconds 10] [--rounds 2]`. Ages are
glass to glass: from the camera's tick to the sink that reads the frame's number out of the picture.
The paper's stage times (5 + 5 + 24.4 + 5 + 5 ms, its Phase 6) go through our loop as it ran them, one after
the other, then with pre and post off the inference thread, then with three stages in a pipeline.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from os import cpu_count
from pathlib import Path

import numpy as np

from ..common.backend import Backend, BackendOptions, FrameParams
from ..common.controls import Look
from ..common.frames import Frame
from ..common.hosted import HostedBackend
from ..common.loop import Loop, LoopSettings, Prompt
from ..common.stats import Summary
from ..common.viewer import Viewer
from .fakes import (
    BACKEND_MS,
    ComputingBackend,
    CountingSink,
    GilBackend,
    SleepingBackend,
    StagedBackend,
    TickingCamera,
)

SIZE = 512
WARM_UP_S = 1.0
PRE_MS = POST_MS = 5.0
INNER_MS = sum(StagedBackend.stages_ms)


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: how the backend is made, what it must reach. Milliseconds; rates per second."""

    name: str
    make: Callable[[BackendOptions], Backend]
    ideal_fps: float
    backend_ms: float
    sequential: bool = False
    pre_ms: float = 0.0
    post_ms: float = 0.0


def _hosted(options: BackendOptions) -> Backend:
    return HostedBackend("gil", "sdxs.experiments.fakes:GilBackend", None, options)


CASES = (
    Case("25 ms sleeping", lambda o: SleepingBackend(None, o), 1000 / BACKEND_MS, BACKEND_MS),
    Case("25 ms computing, GIL released", lambda o: ComputingBackend(None, o), 1000 / BACKEND_MS, BACKEND_MS),
    Case("25 ms holding the GIL", lambda o: GilBackend(None, o), 1000 / BACKEND_MS, BACKEND_MS),
    Case("25 ms holding the GIL, hosted", _hosted, 1000 / BACKEND_MS, BACKEND_MS),
    Case("paper's stages, sequential", lambda o: SleepingBackend(None, o, ms=INNER_MS), 1000 / (PRE_MS + INNER_MS + POST_MS),
         INNER_MS, sequential=True, pre_ms=PRE_MS, post_ms=POST_MS),
    Case("paper's stages, threaded", lambda o: SleepingBackend(None, o, ms=INNER_MS), 1000 / INNER_MS, INNER_MS,
         pre_ms=PRE_MS, post_ms=POST_MS),
    Case("paper's stages, pipelined", lambda o: StagedBackend(None, o), 1000 / max(StagedBackend.stages_ms),
         max(StagedBackend.stages_ms), pre_ms=PRE_MS, post_ms=POST_MS),
)


def measure(case: Case, seconds: float) -> dict[str, object]:
    """Run one session of `case` and take its figures after the first second."""
    camera = TickingCamera(SIZE, pre_ms=case.pre_ms)
    sink = CountingSink(camera, case.post_ms)
    settings = LoopSettings(SIZE, sequential=case.sequential, skip_threshold=-1)
    prompt = Prompt("", np.zeros((1, 77, 64), np.float32))
    options = BackendOptions(SIZE)
    loop = Loop(camera, [case.make(options)], settings, [prompt], FrameParams(), lambda _: prompt.encoder_hidden_states)
    viewer = Viewer(SIZE, Look(), loop.stats, [sink], None)

    def show(frame: Frame) -> None:
        viewer.show(frame)
        if (sink.shown_ns[-1] - sink.shown_ns[0]) / 1e9 >= seconds + WARM_UP_S:
            loop.stop()

    summary = loop.run(show, lambda: None, viewer.close)
    return _figures(case, sink, summary)


def _figures(case: Case, sink: CountingSink, summary: Summary) -> dict[str, object]:
    began = sink.shown_ns[0] + WARM_UP_S * 1e9
    first = next(i for i, shown in enumerate(sink.shown_ns) if shown >= began)
    ages = sink.ages_ms[first:]
    span_s = (sink.shown_ns[-1] - sink.shown_ns[first]) / 1e9
    fps = (len(ages) - 1) / span_s
    intervals = np.diff(sink.shown_ns[first:]) / 1e6
    # Every number the camera gave out up to the last one shown was either shown or dropped.
    gaps = sink.numbers[-1] + 1 - len(sink.numbers)
    dropped = summary.dropped_before_inference + summary.dropped_before_display
    waits = {name: spread.p50 for name, spread in summary.stages_ms.items()}
    return {
        "fps": fps,
        "of_ideal": fps / case.ideal_fps,
        "age_ms": dict(zip(("p50", "p95", "p99"), map(float, np.percentile(ages, [50, 95, 99])), strict=True)),
        "overhead_ms": float(np.median(intervals)) - 1000 / case.ideal_fps,
        "stages_ms": waits,
        "missing_numbers": gaps,
        "counted_drops": dropped,
        "inside_at_end": summary.captured - summary.shown - dropped,
        "in_order": sink.numbers == sorted(set(sink.numbers)),
        "shown": summary.shown,
        "captured": summary.captured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, object]]] = {case.name: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            figures = measure(case, options.seconds)
            rounds[case.name].append(figures)
            age = figures["age_ms"]
            print(
                f"{case.name:32s} {figures['fps']:5.1f} fps, {figures['of_ideal']:.3f} of ideal; age "
                + ", ".join(f"{k} {v:.1f}" for k, v in age.items())  # type: ignore[attr-defined]
                + f" ms; overhead {figures['overhead_ms']:.2f} ms; drops {figures['counted_drops']}"
                f" of {figures['captured']}, missing {figures['missing_numbers']}", flush=True,
            )
    if options.json:
        machine = {"system": platform.platform(terse=True), "cores": cpu_count(), "python": platform.python_version()}
        results = [
            {
                "case": {k: v for k, v in asdict(case).items() if k != "make"},
                "median_fps": statistics.median(r["fps"] for r in rounds[case.name]),  # type: ignore[type-var]
                "rounds": rounds[case.name],
            }
            for case in CASES
        ]
        measured = {"schema": 1, "machine": machine, "seconds": options.seconds, "camera_fps": 60, "results": results}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s")
