"""`sdxs doctor`: what this machine can do, and what to do about the rest."""

from dataclasses import asdict, dataclass

import typer
from rich.markup import escape
from rich.table import Table

from ..common.settings import setting
from .console import err, out, state
from .options import with_settings


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What is looked at, and how it is said."""

    camera: int = setting(0, "number of the camera to look at", minimum=0)
    json: bool = setting(False, "print JSON instead of a table")


@with_settings()
def doctor(asked: DoctorOptions) -> None:
    """Look at everything a session needs here, and say what to do about what is missing."""
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
