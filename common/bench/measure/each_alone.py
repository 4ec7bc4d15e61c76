"""The passes of each backend by itself: memory, copies, stages, operations, peaks."""

from ..model import statistics
from ..model.report import (
    Count,
    MemoryOverTime,
    MemoryPoint,
)
from ..model.roofline import roofline
from .accounts import take_account
from .contention import Traffic
from .crew import Failed
from .instrument import ITEM_BYTES, Peaks
from .requests import (
    CountCopies,
    CountWork,
    Entrant,
    Loaded,
    Measure,
    MeasurePeaks,
    Notes,
    Profile,
    Run,
    Use,
    Watch,
)
from .run_state import RunState
from .worker import Worker

COPY_FRAMES = 20


def each_alone(run: RunState) -> None:
    """Memory, copies, stages and peaks of each backend by itself."""
    if run.plan.profile:
        _count(run)
    for entrant in run.able() if run.plan.memory or run.plan.profile else ():
        run.say(f"{entrant.label}: memory and copies")
        with run.crew.of([entrant], "the memory pass") as crew:
            for worker, loaded in crew.values():
                measured = _memory(run, worker, loaded) and take_account(run, worker, loaded)
                if measured and _copies(run, worker) and run.plan.profile:
                    _profile(run, worker)
        run.save_now()


def _memory(run: RunState, worker: Worker, loaded: Loaded) -> bool:
    """Measure memory at load, after warm-up, over time, at the end; return success."""
    of, during = run.of[worker.entrant.label], "the memory pass"
    of.memory = [_point("load", loaded.use)]
    for moment in ("warm-up", "end"):
        if moment == "end":
            seen = run.crew.ask(worker, Watch(run.plan.memory_s), during)
            if isinstance(seen, Failed):
                return False
            frames, used = [f for f, _ in seen], [b for _, b in seen]
            settled = slice(len(frames) // 4, None)  # the first quarter still fills caches
            of.memory_over_time = MemoryOverTime(
                frames, used, statistics.growth(frames[settled], used[settled])
            )
        ran = run.crew.ask(worker, Run(0, warm=3), during)
        use = ran if isinstance(ran, Failed) else run.crew.ask(worker, Measure(), during)
        if isinstance(use, Failed):
            return False
        of.memory.append(_point(moment, use))
    return True


def _copies(run: RunState, worker: Worker) -> bool:
    copied = run.crew.ask(worker, CountCopies(COPY_FRAMES), "counting copies")
    if isinstance(copied, Failed):
        return False
    run.of[worker.entrant.label].copies = copied
    return True


def _count(run: RunState) -> None:
    """Count the work in every way, each in its own process."""
    for name, location in run.plan.counters.items():
        run.say(f"counting operations: {name}")
        worker = run.start(Entrant(f"count {name}", "", run.plan.entrants[0].options, location))
        costs = run.crew.ask(worker, CountWork(), "counting operations")
        if not isinstance(costs, Failed):
            run.costs[name] = costs
            worker.end()
    stages = dict.fromkeys(cost.stage for costs in run.costs.values() for cost in costs)
    run.report.counts = [
        Count(
            stage,
            {
                name: cost.flops
                for name, costs in run.costs.items()
                for cost in costs
                if cost.stage == stage
            },
        )
        for stage in stages
    ]


def _profile(run: RunState, worker: Worker) -> None:
    of, entrant = run.of[worker.entrant.label], worker.entrant
    run.say(f"{entrant.label}: stages and the machine's peaks")
    stages = run.crew.ask(worker, Profile(run.plan.profile_frames), "the profile")
    if isinstance(stages, Failed):
        return
    of.stages_ms = stages
    notes = run.crew.ask(worker, Notes(), "the profile")
    if isinstance(notes, Failed):
        return
    of.notes = notes
    dtype = of.describe.get("dtype", "")
    if not entrant.instrument or dtype not in ITEM_BYTES or not run.costs:
        return
    peaks = _peaks_of(run, entrant, dtype)
    if peaks is None:
        return
    host = 0.0
    if "cpu" in of.describe.get("device", "").lower():
        with Traffic() as traffic:
            host = traffic.saturation(0.5)
    of.roofline = roofline(
        next(iter(run.costs.values())),
        peaks,
        stages,
        statistics.summary(of.frames).median,
        dtype,
        host,
    )


def _peaks_of(run: RunState, entrant: Entrant, dtype: str) -> Peaks | None:
    """Measure peaks once per framework and precision, in a process of their own."""
    key = entrant.instrument, dtype
    if key not in run.peaks:
        worker = run.start(
            Entrant(f"{entrant.label}'s framework", "", entrant.options, entrant.instrument)
        )
        peaks = run.crew.ask(worker, MeasurePeaks(dtype), "measuring the machine's peaks")
        if isinstance(peaks, Failed):
            return None
        worker.end()
        run.peaks[key] = peaks
    return run.peaks[key]


def _point(moment: str, use: Use) -> MemoryPoint:
    memory = use.memory
    return MemoryPoint(
        moment,
        use.footprint_bytes,
        memory.active_bytes,
        memory.peak_bytes,
        memory.cache_bytes,
        memory.model_bytes,
    )
