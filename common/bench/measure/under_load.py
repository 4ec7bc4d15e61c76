"""The passes under load: two backends at once, and each under memory traffic."""

import time

from ..model import statistics
from ..model.pairs import Together
from ..model.ratios import FLOOR_DTYPE
from ..model.report import (
    Contention,
    ContentionPoint,
)
from .contention import Traffic
from .crew import Failed
from .requests import Measure, Run, Timed, Use
from .run_state import RunState
from .worker import Worker

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def both_at_once(run: RunState) -> None:
    """The first two that are no floor: each alone, then both at the same time."""
    pair = [e for e in run.able() if run.of[e.label].describe.get("dtype") != FLOOR_DTYPE][:2]
    if len(pair) < 2:
        return
    during = "running both at once"
    run.say(f"{pair[0].label} and {pair[1].label} at once")
    request = Run(max(1.0, run.plan.contention_s), warm=2)
    with run.crew.of(pair, during) as crew:
        both = [worker for worker, _ in crew.values()]
        if len(both) < 2:
            return
        alone = [run.crew.ask(worker, request, during) for worker in both]
        if any(isinstance(answer, Failed) for answer in alone):
            return
        together = run.crew.ask_at_once(both, request, during)
        used = [
            run.crew.ask(worker, Measure(), during)
            for worker in both
            if not isinstance(together[0], Failed)
        ]
    apart, at_once = (
        [_fps(t) for t in timed if isinstance(t, Timed)] for timed in (alone, together)
    )
    bytes_used = [use.footprint_bytes for use in used if isinstance(use, Use)]
    if len(apart) == len(at_once) == len(bytes_used) == 2:
        labels = [entrant.label for entrant in pair]
        run.report.together = Together(labels, apart, at_once, bytes_used)
    run.save_now()


def contend(run: RunState) -> None:
    """Frame times of each backend under rising memory traffic, up and down again."""
    with Traffic() as traffic:
        saturation = traffic.saturation()
        for entrant in run.able():
            curve = run.of[entrant.label].contention = Contention(traffic.processes, saturation, [])
            with run.crew.of([entrant], "contention") as crew:
                for worker, _ in crew.values():
                    _sweep(run, worker, traffic, curve)
            traffic.set_rate(0)
            run.save_now()


def _sweep(run: RunState, worker: Worker, traffic: Traffic, curve: Contention) -> None:
    levels = [(level, False) for level in LEVELS] + [(1.0, True)]
    for sweep in range(run.plan.sweeps):
        for level, cached in levels if sweep % 2 == 0 else levels[::-1]:
            run.say(
                f"{worker.entrant.label}: memory traffic at "
                f"{level:.0%}{', the control' if cached else ''}"
            )
            traffic.set_rate(
                float("inf") if level == 1 else level * curve.saturation_bytes_per_s, cached
            )
            time.sleep(run.plan.contention_s if level else 0)
            alone = traffic.rates()[1]
            timed = run.crew.ask(worker, Run(run.plan.contention_s, warm=1), "contention")
            if isinstance(timed, Failed):
                return
            moved, beside = traffic.rates()
            curve.points.append(
                ContentionPoint(level, cached, moved, timed.frame_ms, alone, beside)
            )


def _fps(timed: Timed) -> float:
    return 1000 / statistics.summary([timed.frame_ms]).median
