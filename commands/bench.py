"""`sdxs bench`: which backend is fastest here, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..common.backend.assembly import ModelOptions
from ..common.backend.spec import PEERS, check_installed, spec_of, specs
from ..common.bench.measure.effort import QUICK, WHOLE
from ..common.bench.model.energy import LEAST_WINDOW_S
from ..common.errors import UsageError
from ..common.files import expanded
from ..common.live.parameters import LiveParameters
from ..common.picture.size import FrameSize
from ..common.settings import repeated, setting
from .console import err, interrupts, out, say_plainly
from .options import described, with_settings
from .programs import build

if TYPE_CHECKING:
    from ..common.bench.measure.runner import BenchPlan
    from ..common.bench.model.report import Report
    from ..common.checkpoint.find import Checkpoint


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured. None leaves a choice to `quick`."""

    backends: tuple[str, ...] = setting(
        (),
        f"NAME[:setting=value...] of {', '.join(specs() | specs(PEERS))}; the first is compared "
        "with the others",
        shown=f"all that run here, but {', '.join(specs(PEERS))}",
        flag="--backend",
    )
    model: str = repeated(ModelOptions, "model", default="demo")
    lora: tuple[str, ...] = repeated(ModelOptions, "lora")
    lora_partial: bool = repeated(ModelOptions, "lora_partial")
    size: FrameSize | None = repeated(ModelOptions, "size")
    dtype: str = setting("auto", "precision, for every backend that has a choice")
    depth: int | None = setting(
        None,
        "frames in flight, for every backend that has a choice",
        minimum=1,
        unit="frames",
        shown="what the first backend names that names any, for all that name none",
    )
    batch: int | None = setting(
        None,
        "frames computed at once, for every backend that has a choice",
        minimum=1,
        unit="frames",
        shown="as for depth",
    )
    rounds: int | None = setting(
        None,
        "rounds that every backend is measured in",
        minimum=1,
        shown=f"{WHOLE.rounds}; quick: {QUICK.rounds}",
    )
    profile: bool | None = setting(
        None, "measure stages and roofline", flag="--profile/--no-profile", shown="unless quick"
    )
    contention: bool = setting(False, "measure rates under rising memory traffic")
    energy: bool = setting(False, "measure the energy of a frame, where the system tells it")
    energy_s: float = setting(
        LEAST_WINDOW_S,
        "length of each window of --energy, idle and rendering",
        minimum=LEAST_WINDOW_S,
        maximum=3600,
        unit="seconds",
    )
    cold_start: int = setting(
        0,
        "starts of every backend with emptied caches, each followed by one with kept caches",
        minimum=0,
        maximum=1000,
    )
    quick: bool = setting(False, "measure fewer and shorter rounds, no stages")
    keep: bool = setting(
        False,
        "load each backend once, not in every round: for one that takes minutes to load",
    )
    isolate: bool = setting(False, "time what hosting in a process of its own costs, too")
    drift: float = setting(
        0.0,
        "minutes that each backend renders without a pause, first against last minute; from 3 on",
        minimum=0,
        maximum=120,
        unit="minutes",
    )
    seed: int = repeated(LiveParameters, "seed")


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What is written and shown."""

    json: Path | None = setting(None, "file to write everything to, raw times included")
    html: Path | None = setting(
        None, "file to write a report with plots to, readable without a network"
    )
    png: Path | None = setting(None, "folder for the plots as images; needs the `plot` extra")
    show: Path | None = setting(
        None,
        "measure nothing; show a file that --json wrote, and write --html or --png of it",
    )
    submit: Path | None = setting(
        None,
        "file to write for others to see: this machine and the figures, nothing private; attach "
        "it to an issue",
    )
    across_machines: bool = setting(False, "let --compare take different machines")


@with_settings()
def bench(
    measured: BenchOptions,
    written: ReportOptions,
    compare: Annotated[
        tuple[Path, Path] | None,
        described("Measure nothing; compare two files that --json wrote.", "none", "--compare"),
    ] = None,
) -> None:
    """Measure which backend is fastest here, and why: rates, memory, roofline, contention."""
    from ..common.bench.model import report as reports

    _refuse_overlaps(measured, written, compare or ())
    if compare:
        _compare(compare, written.across_machines)
        return
    plotter = _plotter(written.png)
    if written.show:
        shown = reports.read_report(written.show)
        _show_report(shown, written.html, plotter)
        _submit(shown, written.submit)
        return
    from ..common.backend.assembly import open_checkpoint_for
    from ..common.files import check_writable

    for path in filter(None, (written.json, written.html, written.submit)):
        check_writable(path, path.absolute().parent)
    options = ModelOptions(measured.model, lora=measured.lora, lora_partial=measured.lora_partial)
    checkpoint = open_checkpoint_for(options)
    plan = _plan(measured, checkpoint)
    report, caught = _measure(plan, checkpoint, written.json)
    _show_report(report, written.html, plotter)
    if written.json:
        out.print(f"wrote {escape(str(written.json))}")
    _submit(report, written.submit)
    if caught:
        raise typer.Exit(128 + caught[0])
    if report.failures:
        raise typer.Exit(1)


def _refuse_overlaps(
    measured: BenchOptions, written: ReportOptions, compared: Sequence[Path]
) -> None:
    """Raise UsageError if a file would be written that is read, or written twice."""
    from ..common.files import Written, refuse_overlaps

    refuse_overlaps(
        [
            ("--show", written.show),
            *(("--compare", expanded(path)) for path in compared),
            *ModelOptions(measured.model, lora=measured.lora).reads(),
        ],
        [
            Written("--json", written.json) if written.json else None,
            Written("--html", written.html) if written.html else None,
            Written("--submit", written.submit) if written.submit else None,
            Written("--png", written.png, "*.png") if written.png else None,
        ],
    )


def _compare(paths: tuple[Path, Path], across_machines: bool) -> None:
    """Print what changed between two reports."""
    from ..common.bench.model import report as reports
    from ..common.bench.model.compare import compare, cut_short
    from ..common.bench.show import table

    first, second = (reports.read_report(expanded(path)) for path in paths)
    found = compare(first, second, across_machines)
    out.print(table.changes(found, cut_short(first, second)))


def _plan(measured: BenchOptions, checkpoint: "Checkpoint") -> "BenchPlan":
    """Who is measured, and for how long; programs are built here. Raises UsageError."""
    from ..common.bench.measure.entrants import counters, default_names, entrants
    from ..common.bench.measure.runner import BenchPlan

    size = checkpoint.frame.size if measured.size is None else measured.size
    names = measured.backends or default_names()
    terms = {"depth": measured.depth, "batch": measured.batch}
    chosen = entrants(names, size, measured.dtype, measured.isolate, **terms)
    known = [spec_of(entrant.backend, peers=True) for entrant in chosen]
    for spec in known:
        check_installed(spec)
    for spec, entrant in zip(known, chosen, strict=True):
        if checkpoint.loras and not spec.obeys("lora"):
            raise UsageError(
                f"--lora: {entrant.backend} would ignore it, so it renders another model; drop it, "
                "or name backends with --backend"
            )
        build(spec, checkpoint, entrant.options)
    counting, missing = counters()
    for name, package in missing.items():
        err.print(f"{package} is not installed: {name}'s way of counting operations is left out")
    effort = QUICK if measured.quick else WHOLE
    return BenchPlan(
        tuple(chosen),
        counting,
        measured.rounds or effort.rounds,
        turns=effort.turns,
        turn_s=effort.turn_s,
        fresh=not measured.keep,
        contention=measured.contention,
        energy=measured.energy,
        energy_s=measured.energy_s,
        cold_start=measured.cold_start,
        seed=measured.seed,
        profile=not measured.quick if measured.profile is None else measured.profile,
        memory_s=effort.memory_s,
        sweeps=effort.sweeps,
        drift=measured.drift,
    )


def _measure(
    plan: "BenchPlan", checkpoint: "Checkpoint", path: Path | None
) -> "tuple[Report, list[int]]":
    """Run a plan, saving the report as it grows; the signals that came meanwhile, too."""
    from ..common.bench.measure.runner import Runner
    from ..common.files import write_whole

    def save(report: "Report") -> None:
        if path:
            write_whole(path, report.as_json().encode())

    with err.status("reading the checkpoint") as status:
        say = status.update if err.is_terminal else say_plainly
        runner = Runner(plan, checkpoint, save, say)
        with interrupts(runner.stop) as caught:
            return runner.run(), caught


def _show_report(
    report: "Report", html: Path | None, plotter: "Callable[[Report], list[Path]] | None"
) -> None:
    """Print the tables; write the page and the plots where they are asked for."""
    from ..common.bench.show import table

    out.print(table.render(report))
    written = []
    if html:
        from ..common.bench.show.html import render
        from ..common.files import write_whole

        write_whole(html, render(report).encode())
        written.append(html)
    for path in [*written, *(plotter(report) if plotter else [])]:
        out.print(f"wrote {escape(str(path))}")


def _submit(report: "Report", path: Path | None) -> None:
    """Write what others may see of a run. Raises UsageError for a run without a result."""
    if path is None:
        return
    from ..common.bench.model.submission import submission_of
    from ..common.files import write_whole

    write_whole(path, submission_of(report).as_json().encode())
    out.print(f"wrote {escape(str(path))}: no names, paths or prompts are in it; have a look")


def _plotter(folder: Path | None) -> "Callable[[Report], list[Path]] | None":
    """Return the writer of the plots as images; check its library before the measuring.

    Raises UsageError.
    """
    if folder is None:
        return None
    try:
        from ..common.bench.show.png import write
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--png needs {error.name!r}; `pip install 'sdxs[plot]'`, or take --html"
        ) from None
    return lambda report: write(report, folder)
