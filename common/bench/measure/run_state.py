"""The state of a run, which its rounds and passes share: plan, workers, report."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ...backend.options import BackendOptions
from ...checkpoint.find import Checkpoint
from ...checkpoint.layout import parameter_count, unet_layout
from ...checkpoint.manifest import remembered_sha256
from ...errors import UsageError
from ...live.parameters import DEFAULT_PROMPT
from ...picture.size import FrameSize
from ...prompt.text_encoder import TextEncoder
from ...settings import changed_texts
from ..model import advice, paper, statistics
from ..model.energy import LEAST_WINDOW_S
from ..model.ratios import ratios
from ..model.report import (
    SCHEMA,
    BackendReport,
    Report,
    RunSettings,
    Work,
)
from .crew import Crew
from .effort import WHOLE
from .instrument import Peaks, StageCost
from .machine import conditions, machine
from .requests import Entrant
from .worker import Worker


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The plan of a run.

    Seconds are per turn, per level of traffic and per memory pass; see `RunSettings` for the rest.

    counters: ways of counting a frame's work, by name -> 'module:Class' of an Instrument. drift:
    minutes without a pause for each backend.
    """

    entrants: tuple[Entrant, ...]
    counters: Mapping[str, str]
    rounds: int = WHOLE.rounds
    turns: int = WHOLE.turns
    turn_s: float = WHOLE.turn_s
    fresh: bool = True
    profile: bool = True
    contention: bool = False
    together: bool = True
    memory: bool = True
    energy: bool = False
    energy_s: float = LEAST_WINDOW_S
    cold_start: int = 0
    memory_s: float = WHOLE.memory_s
    contention_s: float = 1.0
    sweeps: int = WHOLE.sweeps
    profile_frames: int = 20
    seed: int = 0
    prompt: str = DEFAULT_PROMPT
    drift: float = 0.0


class Stopped(BaseException):
    """The user asked for the end; handlers of a backend's failures must not catch it."""


class RunState:
    """One run over one checkpoint. `report` is complete in itself at every moment."""

    def __init__(
        self,
        plan: BenchPlan,
        checkpoint: Checkpoint,
        save: Callable[[Report], None] = lambda report: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Encode the prompt and look at the machine.

        save: called after every step with the report so far.

        say: told what is being done. Raises UsageError, ConfigError, WeightsError.
        """
        if not plan.entrants:
            raise UsageError("bench needs at least one --backend")
        self.plan, self.checkpoint, self.say, self._save = plan, checkpoint, say, save
        size = plan.entrants[0].options.size
        checkpoint.check_size(size)
        checkpoint.verify()
        self.encoder_hidden_states = TextEncoder(checkpoint).encode(plan.prompt)
        self.stopped = False
        self.meanwhile: Callable[[], None] | None = None  # called while a worker is waited for
        self.costs: dict[str, list[StageCost]] = {}
        self.peaks: dict[tuple[str, str], Peaks] = {}
        self._began = time.perf_counter()
        self.report = Report(
            SCHEMA,
            False,
            "running",
            datetime.now(UTC).isoformat(timespec="seconds"),
            0.0,
            work_of(checkpoint, size, plan.seed, plan.prompt),
            machine(),
            RunSettings(plan.rounds, plan.turns, plan.turn_s, plan.fresh),
            [conditions()],
            [
                BackendReport(e.label, e.location, _settings(e.options), e.isolated, {})
                for e in plan.entrants
            ],
        )
        self.crew = Crew(self.start, plan.fresh, self.report.failures.append)
        self.of = {backend.label: backend for backend in self.report.backends}

    def start(self, entrant: Entrant) -> Worker:
        """Start a worker that has loaded nothing yet. Raises Stopped."""
        self.watch()
        return Worker(
            entrant, self.checkpoint, self.encoder_hidden_states, self.plan.seed, self.watch
        )

    def watch(self) -> None:
        """Raise Stopped once the user has asked for the end."""
        if self.stopped:
            raise Stopped
        if self.meanwhile:
            self.meanwhile()

    def able(self) -> list[Entrant]:
        """Entrants that rendered something, and no wrong picture."""
        found = [(e, self.of[e.label]) for e in self.plan.entrants]
        return [e for e, backend in found if backend.frames and not backend.wrong]

    def save_now(self) -> None:
        """Work out what follows from the raw times until now, and hand the report on."""
        report = self.report
        report.seconds = round(time.perf_counter() - self._began, 1)
        for backend in report.backends:
            backend.summary = statistics.summary(backend.frames) if backend.frames else None
        report.ratios = ratios(report.backends)
        report.paper = paper.beside(report.work, report.backends)
        report.warnings = advice.warnings(report)
        self._save(report)


def work_of(checkpoint: Checkpoint, size: FrameSize, seed: int, prompt: str) -> Work:
    """Name what is computed, by the hashes of what computes it."""
    files = {"unet": checkpoint.unet_weights, "vae": checkpoint.vae_weights}
    weights = {name: remembered_sha256(path) for name, path in files.items()}
    weights |= {f"lora {lora.spelled()}": lora.sha256 for lora in checkpoint.loras if lora.weight}
    parameters = parameter_count(unet_layout(checkpoint.unet))
    return Work(checkpoint.name, weights, parameters, size.json, seed, prompt)


def _settings(options: BackendOptions) -> dict[str, str]:
    """What was given beyond defaults; `describe` tells the dtype."""
    return {name: text for name, text in changed_texts(options).items() if name != "dtype"}
