"""`sdxs doctor`: what this machine can do, and what to do about the rest."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table
from typer import Option

from .console import err, out, state


def doctor(
    camera: Annotated[int, Option(min=0, help="Number of the camera to look at.")] = 0,
    as_json: Annotated[bool, Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look at everything a session needs here, and say what to do about what is missing."""
    from ..common.backend.spec import specs
    from ..common.doctor import backend_probes, camera_hangs, can_run_demo, examine, probes

    with err.status("looking"):
        checks = examine([*probes(camera), *backend_probes()])
    runs_demo = can_run_demo(checks, specs())
    state.abandoned = camera_hangs()
    if as_json:
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
