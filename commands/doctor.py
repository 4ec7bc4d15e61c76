"""`sdxs doctor`: what this machine can do, and what to do about the rest."""

from dataclasses import asdict, dataclass

import typer
from rich.markup import escape
from rich.table import Table

from ..common.errors import UsageError
from ..common.settings import setting
from .console import err, out, state
from .options import Given, with_settings


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What is looked at, and how it is said."""

    camera: int = setting(0, "number of the camera to look at", minimum=0)
    cameras: bool = setting(False, "list the cameras with their sizes and rates; open none")
    json: bool = setting(False, "print JSON instead of a table")


@with_settings()
def doctor(asked: DoctorOptions, given: Given) -> None:
    """Look at everything a session needs here, and say what to do about what is missing."""
    if asked.cameras:
        if "camera" in given:
            raise UsageError("--cameras opens no camera and would ignore --camera; drop one")
        _show_cameras(asked.json)
        return
    from ..common.backend.spec import specs
    from ..common.doctor import backend_probes, camera_hangs, can_run_demo, examine, probes

    with err.status("looking"):
        checks = examine([*probes(asked.camera), *backend_probes()])
    runs_demo = can_run_demo(checks, specs())
    state.abandoned = camera_hangs()
    if asked.json:
        out.print_json(
            data={
                "schema": 1,
                "runs_demo": runs_demo,
                "checks": [asdict(check) for check in checks],
            }
        )
    else:
        marks = {True: "[green]ok[/]", None: "[yellow]limited[/]", False: "[red]missing[/]"}
        table = Table(
            "what", "state", "finding", "what to do", title="sdxs doctor", title_justify="left"
        )
        for check in checks:
            table.add_row(check.name, marks[check.ok], escape(check.finding), escape(check.remedy))
        out.print(table)
        out.print(
            "`make demo` will run here"
            if runs_demo
            else "`make demo` cannot run here yet; see what is missing above"
        )
    if not runs_demo:
        raise typer.Exit(1)


def _show_cameras(as_json: bool) -> None:
    """List the cameras; exit code 1 if there are none."""
    from ..common.io.sources.camera_modes import rates_text
    from ..common.io.sources.cameras import list_cameras

    cameras = list_cameras()
    if as_json:
        out.print_json(
            data={
                "schema": 1,
                "cameras": [
                    {"number": each.number, "name": each.name, "sizes": dict(each.sizes)}
                    for each in cameras
                ],
            }
        )
    elif cameras:
        table = Table("number", "name", "size", "frames a second")
        for each in cameras:
            rows = [(size, rates_text(rates)) for size, rates in each.sizes]
            rows = rows or [("not told", each.untold or "not told")]
            for row, (size, rates) in enumerate(rows):
                first = ("", "") if row else (str(each.number), escape(each.name))
                table.add_row(*first, size, escape(rates), end_section=row == len(rows) - 1)
        out.print(table)
    else:
        out.print("no camera was found; connect one, or use --source synthetic or a video file")
    if not cameras:
        raise typer.Exit(1)
