"""Render for minutes without a pause, to see what heat does."""

import time
from dataclasses import dataclass
from statistics import median

from ..model.sustained import MINUTE_S, Sustained
from .crew import Failed
from .heat import thermal_state
from .requests import Bench, Request, Run
from .run_state import RunState

SLICE_S = 1.0


@dataclass(frozen=True, slots=True)
class Slice(Request[float]):
    """Render for a second, frames in flight as always; the median frame in ms."""

    def do(self, bench: Bench) -> float:
        return median(Run(SLICE_S, warm=0).do(bench).frame_ms)


def sustain(run: RunState) -> None:
    """Measure each backend by itself for the plan's minutes; the report grows every second."""
    for entrant in run.able():
        found = run.of[entrant.label].sustained = Sustained([], [], [thermal_state()])
        during = "the minutes without a pause"
        with run.crew.of([entrant], during) as crew:
            for worker, _ in crew.values():
                began = time.perf_counter()
                while (passed := time.perf_counter() - began) < run.plan.drift * MINUTE_S:
                    left = run.plan.drift * MINUTE_S - passed
                    run.say(f"{entrant.label}: {left / MINUTE_S:.1f} minutes left, without a pause")
                    frame_ms = run.crew.ask(worker, Slice(), during)
                    if isinstance(frame_ms, Failed):
                        break
                    found.seconds.append(round(time.perf_counter() - began, 3))
                    found.frame_ms.append(frame_ms)
        found.heat.append(thermal_state())
        run.save_now()
