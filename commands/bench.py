"""`sdxs bench`: which backend is fastest here, and why."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from typer import Option

from ..common.errors import UsageError
from .console import err, interrupts, out, say_plainly
from .programs import build

if TYPE_CHECKING:
    from ..common.bench.model.report import Report


def bench(
    backend: Annotated[
        list[str] | None,
        Option(
            help="NAME[:setting=value...] of mlx, coreml, torch, identity; repeatable, the first "
            "is "
            "compared with the others. [default: all that run here, but torch]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str, Option(help="Checkpoint by name or path.")] = "demo",
    size: Annotated[
        int | None,
        Option(help="Side of the picture. [default: the checkpoint's]", show_default=False),
    ] = None,
    dtype: Annotated[str, Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    rounds: Annotated[
        int | None, Option(min=1, help="[default: 8; quick: 3]", show_default=False)
    ] = None,
    profile: Annotated[
        bool | None,
        Option(
            "--profile/--no-profile",
            help="Stages and roofline. [default: unless quick]",
            show_default=False,
        ),
    ] = None,
    contention: Annotated[
        bool, Option("--contention", help="Rates under rising memory traffic.")
    ] = False,
    quick: Annotated[bool, Option("--quick", help="Fewer and shorter rounds, no stages.")] = False,
    keep: Annotated[
        bool,
        Option(
            "--keep",
            help="Load each backend once, not in every round: for what takes minutes to load.",
        ),
    ] = False,
    isolate: Annotated[
        bool, Option("--isolate", help="Time what hosting in a process of its own costs, too.")
    ] = False,
    seed: Annotated[int, Option(min=0, help="Of the noise.")] = 0,
    as_json: Annotated[
        Path | None, Option("--json", help="Write everything, raw times included.")
    ] = None,
    html: Annotated[
        Path | None, Option(help="Write a report with plots, one file, readable without a network.")
    ] = None,
    png: Annotated[
        Path | None, Option(help="Folder for the plots as images; needs the `plot` extra.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        Option(help="Measure nothing; compare two files that --json wrote.", show_default=False),
    ] = None,
    show: Annotated[
        Path | None,
        Option(
            help="Measure nothing; show a file that --json wrote, and write --html or --png of it.",
            show_default=False,
        ),
    ] = None,
    across_machines: Annotated[
        bool, Option("--across-machines", help="Let --compare take different machines.")
    ] = False,
) -> None:
    """Measure which backend is fastest here, and why: rates, memory, roofline, contention. Speaks
    of this machine only.
    """
    from ..common.bench.model import report as reports
    from ..common.bench.show import table

    if compare:
        from ..common.bench.model.compare import compare as compared

        first, second = (reports.read_report(path.expanduser()) for path in compare)
        out.print(table.changes(compared(first, second, across_machines)))
        return
    plotter = _plotter(png)
    if show:
        _show_report(reports.read_report(show.expanduser()), html, plotter)
        return
    from ..common.bench.measure.runner import Plan, Runner
    from ..common.checkpoint.find import find
    from ..common.files import check_writable, write_whole

    json_path, html_path = (path.expanduser() if path else None for path in (as_json, html))
    for path in filter(None, (json_path, html_path)):
        check_writable(path, path.absolute().parent)
    checkpoint = find(model)
    size = checkpoint.frame.size if size is None else size
    from ..common.backend.spec import spec_of
    from ..common.bench.measure.entrants import counters, default_names
    from ..common.bench.measure.entrants import entrants as entrants_of

    entrants = entrants_of(backend or default_names(), size, dtype, isolate)
    for entrant in entrants:
        build(spec_of(entrant.backend, peers=True), checkpoint, entrant.options)
    counting, missing = counters()
    for name, package in missing.items():
        err.print(f"{package} is not installed: {name}'s way of counting operations is left out")
    plan = Plan(
        tuple(entrants),
        counting,
        rounds or (3 if quick else 8),
        turns=2 if quick else 3,
        turn_s=0.2 if quick else 0.4,
        fresh=not keep,
        contention=contention,
        seed=seed,
        profile=not quick if profile is None else profile,
        memory_s=2.0 if quick else 6.0,
        sweeps=1 if quick else 2,
    )

    def save(report: "Report") -> None:
        if json_path:
            write_whole(json_path, report.as_json().encode())

    with err.status("reading the checkpoint") as status:
        runner = Runner(plan, checkpoint, save, (status.update if err.is_terminal else say_plainly))
        with interrupts(runner.stop) as caught:
            report = runner.run()
    _show_report(report, html_path, plotter)
    if json_path:
        out.print(f"wrote {escape(str(json_path))}")
    if caught:
        raise typer.Exit(128 + caught[0])
    if report.failures:
        raise typer.Exit(1)


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

        write_whole(html.expanduser(), render(report).encode())
        written.append(html)
    for path in [*written, *(plotter(report) if plotter else [])]:
        out.print(f"wrote {escape(str(path))}")


def _plotter(folder: Path | None) -> "Callable[[Report], list[Path]] | None":
    """What writes the plots as images; asked for before an hour is measured in vain. Raises
    UsageError.
    """
    if folder is None:
        return None
    try:
        from ..common.bench.show.png import write
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--png needs {error.name!r}; `pip install 'sdxs[plot]'`, or take --html"
        ) from None
    return lambda report: write(report, folder.expanduser())
