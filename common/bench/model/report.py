"""The report of a run: these dataclasses, as JSON.

`schema.json` beside this file is made from them.

Milliseconds, bytes, FLOPs and bytes a second throughout. Raw times are kept: every figure can be
worked out again.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...picture.size import FrameSize
from .energy import Energy
from .pairs import Ratio, Together
from .pictures import PictureCheck
from .reading import checked, read_values
from .start import Starts
from .statistics import FrameSummary, Interval, summary
from .sustained import Sustained
from .unified import Account
from .unified import Contention as Contention
from .unified import ContentionPoint as ContentionPoint

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA = 1
RETIRED = frozenset({"half_saves_ms"})  # in reports of earlier commits; nothing reads it
SCHEMA_FILE = Path(__file__).with_name("schema.json")


@dataclass(slots=True)
class Machine:
    """What the figures were taken on; empty where the system does not tell."""

    system: str
    chip: str
    accelerator: str
    cores: int
    memory_bytes: int
    python: str
    versions: dict[str, str]
    environment: dict[str, str]
    git: str


@dataclass(slots=True)
class Work:
    """The work of a run; runs of other work refuse to be compared.

    weights: sha256 of UNet and VAE. size: side of the square frame, or '640x384'.
    """

    model: str
    weights: dict[str, str]
    unet_parameters: int
    size: int | str
    seed: int
    prompt: str

    @property
    def frame(self) -> FrameSize:
        """The size of the frame. Raises UsageError for a text that names none."""
        return FrameSize.from_json(self.size)


@dataclass(slots=True)
class RunSettings:
    """How a run was measured.

    fresh: each round in processes of its own; otherwise all rounds in the same processes.
    """

    rounds: int
    turns: int
    turn_s: float
    fresh: bool


@dataclass(slots=True)
class Round:
    """One backend's part of a round; `error` says how it failed, then there may be no times.

    heat: what macOS called its thermal state when the round began; '' where nothing tells.
    """

    number: int
    warm_ms: list[float]
    frame_ms: list[float]
    latency_ms: list[float]
    load_s: float
    error: str = ""
    heat: str = ""


@dataclass(slots=True)
class MemoryPoint:
    """At a moment: 'load', 'warm-up' or 'end'.

    footprint: of the process, phys_footprint on macOS, PSS on Linux; the rest as the framework
    says.
    """

    moment: str
    footprint_bytes: int
    active_bytes: int
    peak_bytes: int
    cache_bytes: int
    model_bytes: int


@dataclass(slots=True)
class MemoryOverTime:
    """Footprint over frames.

    Growth in bytes per 1,000 frames, None with too few samples.
    """

    frames: list[int]
    footprint_bytes: list[int]
    growth: Interval | None


@dataclass(slots=True)
class Peak:
    """The machine's best through this backend's framework, or a CPU's memory by plain copies."""

    flops_per_s: float
    bytes_per_s: float
    dtype: str
    how: str


@dataclass(slots=True)
class StageRoof:
    """One stage against the machine's roof.

    bound: 'compute' or 'memory', by which side of the ridge point it lies on. share: of the
    attainable rate that was reached. The savings are the most milliseconds that weights of fewer
    bits can take off.
    """

    stage: str
    flops: int
    moved_bytes: int
    weight_bytes: int
    measured_ms: float
    intensity: float
    bound: str
    roof_ms: float
    share: float
    int8_saves_ms: float
    int4_saves_ms: float
    verdict: str


@dataclass(slots=True)
class Roofline:
    """ridge: FLOPs per byte above which arithmetic is the limit."""

    peak: Peak
    ridge: float
    stages: list[StageRoof]
    frame_verdict: str


@dataclass(slots=True)
class BackendReport:
    """Everything about one entrant.

    copies: bytes per frame by hand. stages_ms: of a separate pass, each waited for. notes: what
    its framework tells.
    """

    label: str
    location: str
    settings: dict[str, str]
    isolated: bool
    describe: dict[str, str]
    rounds: list[Round] = field(default_factory=list)
    summary: FrameSummary | None = None
    bridge_ms: float = 0.0
    memory: list[MemoryPoint] = field(default_factory=list)
    memory_over_time: MemoryOverTime | None = None
    copies: dict[str, float] = field(default_factory=dict)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    roofline: Roofline | None = None
    contention: Contention | None = None
    picture: PictureCheck | None = None
    account: Account | None = None
    sustained: Sustained | None = None
    energy: Energy | None = None
    starts: Starts | None = None

    @property
    def wrong(self) -> str:
        """Why its picture is wrong, so that its times are none of the work; '' if nothing is."""
        return self.picture.failed if self.picture else ""

    @property
    def latency(self) -> FrameSummary | None:
        """Latency from submit to collect, over all rounds."""
        return summary([r.latency_ms for r in self.rounds if r.latency_ms]) if self.frames else None

    @property
    def frames(self) -> list[list[float]]:
        """Frame times of the rounds that have any."""
        return [r.frame_ms for r in self.rounds if r.frame_ms]


@dataclass(slots=True)
class Count:
    """A stage's FLOPs as each way of counting has them."""

    stage: str
    flops: dict[str, int]


@dataclass(slots=True)
class PaperRow:
    """A figure of the paper's beside ours: the same work, not the same machine."""

    what: str
    paper_ms: float
    ours_ms: dict[str, float]


@dataclass(slots=True)
class Report:
    """A run.

    complete: every requested pass was made; otherwise `ended` says what happened.
    """

    __pydantic_config__ = {"strict": True, "extra": "forbid"}  # noqa: RUF012 - of those within, too

    schema: int
    complete: bool
    ended: str
    began: str
    seconds: float
    work: Work
    machine: Machine
    settings: RunSettings
    conditions: list[dict[str, str]] = field(default_factory=list)
    backends: list[BackendReport] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    together: Together | None = None
    counts: list[Count] = field(default_factory=list)
    paper: list[PaperRow] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


def schema_text() -> str:
    """The JSON schema of a report, as `schema.json` has it."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A report of `sdxs bench`",
    }
    return json.dumps(_reader().json_schema() | head, indent=1) + "\n"


def read_report(path: Path) -> Report:
    """Read a report of `--json`.

    Raises UsageError for a file that is missing, damaged, or of another version.
    """
    values = read_values(path, "--json", _without_retired)
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA or not isinstance(values, dict):
        raise UsageError(
            f"{path}: schema {schema!r}, expected {SCHEMA}; it was written by another version of "
            "sdxs, or is no report of bench: use that version, or measure again"
        )
    if lacking := [name for name in ("work", "machine", "backends") if name not in values]:
        raise UsageError(
            f"{path}: no report of `sdxs bench`: it has no {' and no '.join(lacking)}; expected a "
            "file that `sdxs bench --json` wrote"
        )
    report = checked(_reader(), values, path, "report", "measure again")
    if not _names_a_size(report.work):
        raise UsageError(
            f"{path}: damaged: report.work.size is {type(report.work.size).__name__}, expected int "
            "or a text as '640x384'; measure again"
        )
    return report


def _names_a_size(work: Work) -> bool:
    try:
        return work.frame.json == work.size
    except UsageError:
        return False


def _without_retired(values: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in RETIRED}


@cache
def _reader() -> "TypeAdapter[Report]":
    # Not at the top: processes that are measured import this file, and pydantic takes 15 MB.
    from pydantic import TypeAdapter

    return TypeAdapter(Report)
