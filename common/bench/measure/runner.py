"""Carry a plan out: rounds in alternation, then memory, copies, stages, roofline, contention, both
at once.

The headline comes first and alone; every other pass runs after it and cannot disturb it. A backend
that fails loses the round or the pass it was in, and the report says so. `stop` ends the run
between two answers; what was measured until then is kept and marked as partial.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ...backend.options import BackendOptions
from ...checkpoint.find import Checkpoint
from ...checkpoint.manifest import remembered_sha256
from ...checkpoint.tensors import read_header
from ...errors import UsageError
from ...prompt.text_encoder import TextEncoder
from ...settings import changed_texts
from ..model import advice, paper, statistics
from ..model.report import (
    SCHEMA,
    BackendReport,
    Contention,
    ContentionPoint,
    Count,
    MemoryOverTime,
    MemoryPoint,
    Ratio,
    Report,
    Round,
    Settings,
    Together,
    Work,
)
from ..model.roofline import roofline
from .contention import Traffic
from .crew import Crew, Failed
from .instrument import ITEM_BYTES, Peaks, StageCost
from .machine import conditions, machine
from .worker import Count as CountWork
from .worker import (
    CountCopies,
    Entrant,
    Loaded,
    Measure,
    MeasurePeaks,
    Notes,
    Profile,
    Run,
    Timed,
    Use,
    Watch,
    Worker,
)

FLOOR_DTYPE = "uint8"  # what the identity backend says, which computes nothing
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
COPY_FRAMES = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. Seconds are per turn, per level of traffic and per memory pass; the rest
    see `Settings`.

    counters: ways of counting a frame's work, by name -> 'module:Class' of an Instrument.
    """

    entrants: tuple[Entrant, ...]
    counters: Mapping[str, str]
    rounds: int = 8
    turns: int = 3
    turn_s: float = 0.4
    fresh: bool = True
    profile: bool = True
    contention: bool = False
    together: bool = True
    memory: bool = True
    memory_s: float = 6.0
    contention_s: float = 1.0
    sweeps: int = 2
    profile_frames: int = 20
    seed: int = 0
    prompt: str = "an oil painting"


class Stopped(BaseException):
    """The user asked for the end; no failure of a backend's, so nothing that handles those may
    catch it.
    """


class Runner:
    """One run of bench over one checkpoint. `report` is complete in itself at every moment."""

    def __init__(
        self,
        plan: Plan,
        checkpoint: Checkpoint,
        save: Callable[[Report], None] = lambda report: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Read the prompt's states and the machine. save: called after every step with the report
        until then.

        say: told what is being done. Raises UsageError, ConfigError, WeightsError.
        """
        if not plan.entrants:
            raise UsageError("bench needs at least one --backend")
        self._plan, self._checkpoint, self._save, self._say = plan, checkpoint, save, say
        self._size = plan.entrants[0].options.size
        checkpoint.check_size(self._size)
        checkpoint.verify()
        self._conditioning = TextEncoder(checkpoint).encode(plan.prompt)
        self._stopped = False
        self._costs: dict[str, list[StageCost]] = {}
        self._peaks: dict[tuple[str, str], Peaks] = {}
        self._began = time.perf_counter()
        self.report = Report(
            SCHEMA,
            False,
            "running",
            datetime.now(UTC).isoformat(timespec="seconds"),
            0.0,
            work_of(checkpoint, self._size, plan.seed, plan.prompt),
            machine(),
            Settings(plan.rounds, plan.turns, plan.turn_s, plan.fresh),
            [conditions()],
            [
                BackendReport(e.label, e.location, _settings(e.options), e.isolated, {})
                for e in plan.entrants
            ],
        )
        self._crew = Crew(self._start, plan.fresh, self.report.failures.append)
        self._of = {backend.label: backend for backend in self.report.backends}

    def stop(self) -> None:
        """Ask for the end; safe in a signal handler."""
        self._stopped = True

    def run(self) -> Report:
        """Do everything and return the report. A backend's failure goes into it; a mistake of ours
        is raised.
        """
        ended = "failed"
        try:
            self._rounds()
            self._passes()
            if self._plan.together:
                self._both_at_once()
            if self._plan.contention:
                self._contend()
            ended = "finished"
        except Stopped:
            ended = "interrupted"
        finally:
            self._crew.end()
            self.report.complete = ended == "finished" and not self.report.failures
            self.report.ended = ended
            self.report.conditions.append(conditions())
            self._save_now()
        return self.report

    # Steps

    def _rounds(self) -> None:
        """The headline: every round, each backend's turns in alternation."""
        plan = self._plan
        for number in range(plan.rounds):
            self._say(f"round {number + 1} of {plan.rounds}")
            during = f"round {number + 1}"
            with self._crew.of(plan.entrants, during) as crew:
                records = {
                    label: Round(number, [], [], [], loaded.load_s)
                    for label, (_, loaded) in crew.items()
                }
                for label, (_, loaded) in crew.items():
                    # a process id differs each time and says nothing
                    self._of[label].describe = replace(loaded.describe, processes=()).as_dict()
                for entrant in plan.entrants:
                    if entrant.label not in crew:
                        self._of[entrant.label].rounds.append(
                            Round(number, [], [], [], 0.0, self.report.failures[-1])
                        )
                try:
                    self._turns(crew, records, during)
                finally:
                    for label, record in records.items():
                        self._of[label].rounds.append(record)
            self._save_now()

    def _turns(
        self, crew: Mapping[str, tuple[Worker, Loaded]], records: Mapping[str, Round], during: str
    ) -> None:
        """A B A B, and the other way about in every second round, so that nobody always follows
        the same neighbour.
        """
        for turn in range(self._plan.turns):
            order = list(records)
            for label in order if next(iter(records.values())).number % 2 == 0 else order[::-1]:
                record = records[label]
                if record.error:
                    continue
                request = Run(self._plan.turn_s, warm=2 if turn == 0 else 1)
                timed = self._crew.ask(crew[label][0], request, during)
                if isinstance(timed, Failed):
                    record.error = timed
                    continue
                record.warm_ms += timed.warm_ms
                record.frame_ms += timed.frame_ms
                record.latency_ms += timed.latency_ms
                self._of[label].bridge_ms = timed.bridge_ms

    def _passes(self) -> None:
        """Memory, copies, stages and peaks of each backend by itself."""
        if self._plan.profile:
            self._count()
        for entrant in self._able() if self._plan.memory or self._plan.profile else ():
            self._say(f"{entrant.label}: memory and copies")
            with self._crew.of([entrant], "the memory pass") as crew:
                for worker, loaded in crew.values():
                    if self._memory(worker, loaded) and self._copies(worker) and self._plan.profile:
                        self._profile(worker)
            self._save_now()

    def _memory(self, worker: Worker, loaded: Loaded) -> bool:
        """Memory at load, after warm-up and at the end, and over time in between. Returns whether
        it went well.
        """
        of, during = self._of[worker.entrant.label], "the memory pass"
        of.memory = [_point("load", loaded.use)]
        for moment in ("warm-up", "end"):
            if moment == "end":
                seen = self._crew.ask(worker, Watch(self._plan.memory_s), during)
                if isinstance(seen, Failed):
                    return False
                frames, used = [f for f, _ in seen], [b for _, b in seen]
                settled = slice(len(frames) // 4, None)  # the first quarter still fills caches
                of.memory_over_time = MemoryOverTime(
                    frames, used, statistics.growth(frames[settled], used[settled])
                )
            ran = self._crew.ask(worker, Run(0, warm=3), during)
            use = ran if isinstance(ran, Failed) else self._crew.ask(worker, Measure(), during)
            if isinstance(use, Failed):
                return False
            of.memory.append(_point(moment, use))
        return True

    def _copies(self, worker: Worker) -> bool:
        copied = self._crew.ask(worker, CountCopies(COPY_FRAMES), "counting copies")
        if isinstance(copied, Failed):
            return False
        self._of[worker.entrant.label].copies = copied
        return True

    def _count(self) -> None:
        """Count the work in every way there is, each in a process of its own: coremltools and MLX
        need not meet.
        """
        for name, location in self._plan.counters.items():
            self._say(f"counting operations: {name}")
            worker = self._start(
                Entrant(f"count {name}", "", self._plan.entrants[0].options, location)
            )
            costs = self._crew.ask(worker, CountWork(), "counting operations")
            if not isinstance(costs, Failed):
                self._costs[name] = costs
                worker.end()
        stages = dict.fromkeys(cost.stage for costs in self._costs.values() for cost in costs)
        self.report.counts = [
            Count(
                stage,
                {
                    name: cost.flops
                    for name, costs in self._costs.items()
                    for cost in costs
                    if cost.stage == stage
                },
            )
            for stage in stages
        ]

    def _profile(self, worker: Worker) -> None:
        of, entrant = self._of[worker.entrant.label], worker.entrant
        self._say(f"{entrant.label}: stages and the machine's peaks")
        stages = self._crew.ask(worker, Profile(self._plan.profile_frames), "the profile")
        if isinstance(stages, Failed):
            return
        of.stages_ms = stages
        notes = self._crew.ask(worker, Notes(), "the profile")
        if isinstance(notes, Failed):
            return
        of.notes = notes
        dtype = of.describe.get("dtype", "")
        if not entrant.instrument or dtype not in ITEM_BYTES or not self._costs:
            return
        peaks = self._peaks_of(entrant, dtype)
        if peaks is None:
            return
        host = 0.0
        if "cpu" in of.describe.get("device", "").lower():
            with Traffic() as traffic:
                host = traffic.saturation(0.5)
        of.roofline = roofline(
            next(iter(self._costs.values())),
            peaks,
            stages,
            statistics.summary(of.frames).median,
            dtype,
            host,
        )

    def _peaks_of(self, entrant: Entrant, dtype: str) -> Peaks | None:
        """Once for each framework and precision, in a process of its own, whose memory is not the
        backend's.
        """
        key = entrant.instrument, dtype
        if key not in self._peaks:
            worker = self._start(
                Entrant(f"{entrant.label}'s framework", "", entrant.options, entrant.instrument)
            )
            peaks = self._crew.ask(worker, MeasurePeaks(dtype), "measuring the machine's peaks")
            if isinstance(peaks, Failed):
                return None
            worker.end()
            self._peaks[key] = peaks
        return self._peaks[key]

    def _both_at_once(self) -> None:
        """The first two that are no floor: each alone, then both at the same time."""
        pair = [e for e in self._able() if self._of[e.label].describe.get("dtype") != FLOOR_DTYPE][
            :2
        ]
        if len(pair) < 2:
            return
        during = "running both at once"
        self._say(f"{pair[0].label} and {pair[1].label} at once")
        request = Run(max(1.0, self._plan.contention_s), warm=2)
        with self._crew.of(pair, during) as crew:
            both = [worker for worker, _ in crew.values()]
            if len(both) < 2:
                return
            alone = [self._crew.ask(worker, request, during) for worker in both]
            if any(isinstance(answer, Failed) for answer in alone):
                return
            together = self._crew.ask_at_once(both, request, during)
            used = [
                self._crew.ask(worker, Measure(), during)
                for worker in both
                if not isinstance(together[0], Failed)
            ]
        apart, at_once = (
            [_fps(t) for t in timed if isinstance(t, Timed)] for timed in (alone, together)
        )
        bytes_used = [use.footprint_bytes for use in used if isinstance(use, Use)]
        if len(apart) == len(at_once) == len(bytes_used) == 2:
            labels = [entrant.label for entrant in pair]
            self.report.together = Together(labels, apart, at_once, bytes_used)
        self._save_now()

    def _contend(self) -> None:
        """Frame times of each backend under rising memory traffic, up and down again."""
        with Traffic() as traffic:
            saturation = traffic.saturation()
            for entrant in self._able():
                curve = self._of[entrant.label].contention = Contention(
                    traffic.processes, saturation, []
                )
                with self._crew.of([entrant], "contention") as crew:
                    for worker, _ in crew.values():
                        self._sweep(worker, traffic, curve)
                traffic.set_rate(0)
                self._save_now()

    def _sweep(self, worker: Worker, traffic: Traffic, curve: Contention) -> None:
        levels = [(level, False) for level in LEVELS] + [(1.0, True)]
        for sweep in range(self._plan.sweeps):
            for level, cached in levels if sweep % 2 == 0 else levels[::-1]:
                self._say(
                    f"{worker.entrant.label}: memory traffic at "
                    f"{level:.0%}{', the control' if cached else ''}"
                )
                traffic.set_rate(
                    float("inf") if level == 1 else level * curve.saturation_bytes_per_s, cached
                )
                timed = self._crew.ask(worker, Run(self._plan.contention_s, warm=1), "contention")
                if isinstance(timed, Failed):
                    return
                curve.points.append(
                    ContentionPoint(level, cached, traffic.measured_rate(), timed.frame_ms)
                )

    # Around them

    def _start(self, entrant: Entrant) -> Worker:
        self._watch()
        return Worker(entrant, self._checkpoint, self._conditioning, self._plan.seed, self._watch)

    def _watch(self) -> None:
        if self._stopped:
            raise Stopped

    def _able(self) -> list[Entrant]:
        """Entrants that rendered something."""
        return [e for e in self._plan.entrants if self._of[e.label].frames]

    def _save_now(self) -> None:
        """Work out what follows from the raw times until now, and hand the report on."""
        report = self.report
        report.seconds = round(time.perf_counter() - self._began, 1)
        for backend in report.backends:
            backend.summary = statistics.summary(backend.frames) if backend.frames else None
        report.ratios = ratios(report.backends)
        report.paper = paper.beside(report.work, report.backends)
        report.warnings = advice.warnings(report)
        self._save(report)


def ratios(backends: Sequence[BackendReport]) -> list[Ratio]:
    """The first backend against each of the others; those of another precision are refused, and a
    floor is no rival.
    """
    made = []
    for second in backends[1:]:
        first = backends[0]
        dtypes = [b.describe.get("dtype", "") for b in (first, second)]
        if all(dtypes) and dtypes.count(FLOOR_DTYPE) == 1:
            continue
        if dtypes[0] != dtypes[1] and all(dtypes):
            refused = (
                f"{first.label} computes in {dtypes[0]}, {second.label} in {dtypes[1]}; "
                "give "
                "both the same --dtype"
            )
            made.append(Ratio(first.label, second.label, None, refused))
            continue
        common = [  # rounds that both finished
            (a.frame_ms, b.frame_ms)
            for a, b in zip(first.rounds, second.rounds, strict=False)
            if a.frame_ms and b.frame_ms
        ]
        found = statistics.ratio([a for a, _ in common], [b for _, b in common])
        made.append(
            Ratio(
                first.label, second.label, found, "" if found else "fewer than two rounds in common"
            )
        )
    return made


def work_of(checkpoint: Checkpoint, size: int, seed: int, prompt: str) -> Work:
    """Name what is computed, by the hashes of what computes it."""
    files = {"unet": checkpoint.unet_weights, "vae": checkpoint.vae_weights}
    weights = {name: remembered_sha256(path) for name, path in files.items()}
    parameters = sum(
        math.prod(info.shape) for info in read_header(checkpoint.unet_weights).values()
    )
    return Work(checkpoint.name, weights, parameters, size, seed, prompt)


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


def _fps(timed: Timed) -> float:
    return 1000 / statistics.summary([timed.frame_ms]).median


def _settings(options: BackendOptions) -> dict[str, str]:
    """What was given beyond defaults; `describe` tells the dtype."""
    return {name: text for name, text in changed_texts(options).items() if name != "dtype"}
