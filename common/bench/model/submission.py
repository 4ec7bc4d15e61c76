"""A run as one file for others: `sdxs bench --submit` writes it, docs/results/community keeps it.

It is made of figures and of texts of known forms (`public`): no path, no name, no prompt, no text
of an error. Raw times stay with the run's own report.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ...backend.spec import PACKAGES, PEERS, BackendSpec, specs
from ...checkpoint.registry import ENTRIES
from ...errors import UsageError
from ...picture.size import FrameSize
from ...settings import settings_of
from . import public
from .advice import BUSY, load_of
from .reading import checked, read_values
from .report import BackendReport, Machine, Report
from .submitted import EnergyUse, StartUps, energy_use, is_plain, start_ups
from .unified import Account, Stolen, stolen

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SUBMISSION = 2  # 1 had neither energy nor starts, and is read as well
READABLE = (1, SUBMISSION)
MOST_BYTES = 200_000
MOST_ENTRANTS, MOST_ROUNDS, MOST_CORES = 32, 1000, 4096
ANOTHER = "another"  # a model or a backend whose name is the user's own
ENVIRONMENT = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(slots=True)
class Picture:
    """How near the pictures were to the reference; see `pictures.PictureCheck`."""

    worst_db: float
    psnr_db: float
    ssim: float
    flicker_levels: float
    passed: bool


@dataclass(slots=True)
class Result:
    """One backend: its rate by round, and what else was measured. Milliseconds and bytes."""

    backend: str
    settings: dict[str, str]
    describe: dict[str, str]
    isolated: bool
    frames: int
    median: float
    p95: float
    latency_ms: float
    round_ms: list[float]
    load_s: float
    picture: Picture | None = None
    memory: dict[str, int] = field(default_factory=dict)
    account: Account | None = None
    copies: dict[str, float] = field(default_factory=dict)
    stages_ms: dict[str, float] = field(default_factory=dict)
    peak_flops_per_s: float | None = None
    peak_bytes_per_s: float | None = None
    stolen: Stolen | None = None
    energy: EnergyUse | None = None
    starts: StartUps | None = None

    @property
    def failed(self) -> bool:
        """Whether its picture was wrong, so that its times are those of no work."""
        return self.picture is not None and not self.picture.passed


@dataclass(slots=True)
class Submission:
    """A run for others.

    failures: how many there were; what they said is not in here. load: average of the minute before
    the run; None if unknown.
    """

    __pydantic_config__ = {"strict": True, "extra": "forbid"}  # noqa: RUF012 - of those within, too

    submission: int
    date: str
    complete: bool
    failures: int
    machine: Machine
    power: str
    load: float | None
    model: str
    unet_parameters: int
    size: int | str
    rounds: int
    turns: int
    turn_s: float
    fresh: bool
    results: list[Result]
    together_fps: list[float] = field(default_factory=list)
    together_alone_fps: list[float] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether other programs kept the machine from measuring."""
        return self.load is not None and self.load > BUSY * self.machine.cores

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"


def submission_of(report: Report) -> Submission:
    """Take from a report what others may see. Raises UsageError for one without a result."""
    names = public.own_names()
    results = [_result(b, names) for b in report.backends if b.summary and b.latency]
    if not results:
        raise UsageError("--submit: the run has no result to pass on; measure again")
    work, settings, both = report.work, report.settings, report.together
    conditions = report.conditions[0] if report.conditions else {}
    return Submission(
        SUBMISSION,
        report.began[:10],
        report.complete,
        len(report.failures),
        _machine(report.machine, names),
        public.shown(conditions.get("power", ""), names),
        load_of(conditions),
        work.model if work.model in ENTRIES else ANOTHER,
        work.unet_parameters,
        work.size,
        settings.rounds,
        settings.turns,
        settings.turn_s,
        settings.fresh,
        results,
        both.together_fps if both else [],
        both.alone_fps if both else [],
    )


def _machine(machine: Machine, names: frozenset[str]) -> Machine:
    known = _known()
    allowed = {*ENVIRONMENT, *(name for spec in known.values() for name in spec.published)}
    environment = {n: public.shown(v, names) for n, v in machine.environment.items()}
    packages = {*PACKAGES, *(n for s in known.values() for n in (s.package, *s.versions))}
    versions = {n: public.version_of(v) for n, v in machine.versions.items() if n in packages}
    return Machine(
        public.system_of(machine.system),
        machine.chip if public.is_chip(machine.chip) else "",
        public.shown(machine.accelerator, names),
        machine.cores,
        machine.memory_bytes,
        public.version_of(machine.python),
        {name: version for name, version in versions.items() if version},
        {n: v for n, v in environment.items() if n in allowed and v != public.REMOVED},
        machine.git if public.is_commit(machine.git) else "",
    )


def _result(backend: BackendReport, names: frozenset[str]) -> Result:
    assert backend.summary and backend.latency
    named = backend.label.partition(":")[0].partition(" ")[0]
    spec, last = _known().get(named), backend.memory[-1] if backend.memory else None
    own = {each.name for each in settings_of(spec.options)} if spec else set()
    peak = backend.roofline.peak if backend.roofline else None
    return Result(
        spec.name if spec else ANOTHER,
        public.shown_values({n: v for n, v in backend.settings.items() if n in own}, names),
        public.shown_values(backend.describe, names),
        backend.isolated,
        backend.summary.frames,
        backend.summary.median,
        backend.summary.p95,
        backend.latency.median,
        [round(median(times), 4) for times in backend.frames],
        median(r.load_s for r in backend.rounds),
        _picture(backend),
        {
            what: getattr(last, f"{what}_bytes")
            for what in ("footprint", "active", "peak", "cache", "model")
            if last
        },
        backend.account,
        {site: copied for site, copied in backend.copies.items() if _is_site(site, names)},
        {s: median(t) for s, t in backend.stages_ms.items() if t and _is_site(s, names)},
        peak.flops_per_s if peak else None,
        peak.bytes_per_s if peak else None,
        stolen(backend.contention) if backend.contention else None,
        energy_use(backend.energy, names),
        start_ups(backend.starts, names),
    )


def _is_site(text: str, names: frozenset[str]) -> bool:
    return public.is_key(text.lower()) and public.shown(text, names) == text


def _picture(backend: BackendReport) -> Picture | None:
    check = backend.picture
    if check is None or check.typical is None or check.worst_db is None:
        return None
    return Picture(check.worst_db, *check.typical, not check.failed)


def _known() -> dict[str, BackendSpec]:
    """Return the backends and peers of this project; somebody's own have names of their own."""
    project = __name__.partition(".")[0] + "."
    return {n: s for n, s in (specs() | specs(PEERS)).items() if s.location.startswith(project)}


def read_submission(path: Path) -> Submission:
    """Read a file of `--submit`, which anybody may have edited.

    Raises UsageError for one that is too large, damaged, of another schema, or that holds a text
    of another form than this module writes.
    """
    values = read_values(
        path,
        "--submit",
        most_bytes=MOST_BYTES,
        too_large="attach the file that `sdxs bench --submit` wrote, and no report of --json",
    )
    version = values.get("submission") if isinstance(values, dict) else None
    if version not in READABLE:
        raise UsageError(
            f"{path}: submission {version!r}, expected {' or '.join(map(str, READABLE))}; it is no "
            "file of `sdxs bench --submit`, or of another version of sdxs: write it again from the "
            "run's report, with --show and --submit"
        )
    return checked(
        _reader(),
        values,
        path,
        "submission",
        "write it again",
        lambda found: next(_strange(found), ""),
    )


def _strange(found: Submission) -> Iterator[str]:
    """Yield what this module does not write."""
    machine = found.machine
    if not 1 <= len(found.results) <= MOST_ENTRANTS:
        yield f"{len(found.results)} results, expected 1 to {MOST_ENTRANTS}"
    if not 1 <= machine.cores <= MOST_CORES or not 1 <= found.rounds <= MOST_ROUNDS:
        yield f"{machine.cores} cores and {found.rounds} rounds, expected fewer"
    try:
        good_size = FrameSize.from_json(found.size).json == found.size
    except UsageError:
        good_size = False
    checks = {
        "size": good_size,
        "date": public.is_date(found.date),
        "power": public.is_text(found.power),
        "model": found.model in {*ENTRIES, ANOTHER},
        "machine.system": public.is_system(machine.system),
        "machine.chip": public.is_chip(machine.chip),
        "machine.accelerator": public.is_text(machine.accelerator),
        "machine.python": public.is_version(machine.python),
        "machine.git": public.is_commit(machine.git),
        "machine.versions": _are(machine.versions, public.is_version),
        "machine.environment": all(
            public.is_variable(n) and public.is_text(v) for n, v in machine.environment.items()
        ),
    }
    for number, result in enumerate(found.results):
        checks[f"results[{number}]"] = _is_plain(result)
    yield from (
        f"submission.{place} is not as sdxs writes it" for place, ok in checks.items() if not ok
    )


def _is_plain(result: Result) -> bool:
    texts = [result.backend, result.account.told_by if result.account else ""]
    sites = [*result.copies, *result.stages_ms, *result.memory]
    return (
        all(map(public.is_text, texts))
        and all(public.is_key(site.lower()) for site in sites)
        and _are(result.settings, public.is_text)
        and _are(result.describe, public.is_text)
        and 0 < len(result.round_ms) <= MOST_ROUNDS
        and min(result.round_ms) > 0
        and is_plain(result.energy, result.starts)
    )


def _are(values: dict[str, str], check: Callable[[str], bool]) -> bool:
    return all(public.is_key(key) and check(value) for key, value in values.items())


@cache
def _reader() -> "TypeAdapter[Submission]":
    # Not at the top: pydantic takes 15 MB.
    from pydantic import TypeAdapter

    return TypeAdapter(Submission)
