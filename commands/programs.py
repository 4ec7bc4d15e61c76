"""Build the programs that a backend needs, showing progress."""

from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from .console import err, kept_interrupt, steps

if TYPE_CHECKING:
    from ..common.backend.options import BackendOptions
    from ..common.backend.programs import Prepared
    from ..common.backend.spec import BackendSpec
    from ..common.checkpoint.find import Checkpoint


def build(
    spec: "BackendSpec",
    checkpoint: "Checkpoint",
    options: "BackendOptions",
    force: bool = False,
    verbose: bool = False,
) -> "list[Prepared]":
    """Build and check the programs of a backend before it is opened, showing progress.

    force: build them again. verbose: say which compute unit runs how many operations.
    """
    from ..common.backend.assembly import prepare
    from ..common.backend.spec import spec_of

    if not spec.programs:
        return []
    try:
        with kept_interrupt() as check, steps(f"{spec.title} program") as report:

            def say(step: str, done: float) -> None:
                check()
                report(step, done)

            programs = prepare(spec, checkpoint, options, say, force)
    except KeyboardInterrupt:
        err.print("interrupted; nothing half-built is left")
        raise typer.Exit(130) from None
    for program in programs:
        if program.news:
            against = spec_of(spec.reference).title
            err.print(
                escape(
                    f"{spec.title} program built and checked against {against} ({program.news}): "
                    f"{program.folder}"
                )
            )
        for line in program.plan() if verbose else ():
            err.print(escape(line))
    return programs


def quality(spec: "BackendSpec", program: "Prepared") -> str:
    from ..common.backend.spec import spec_of

    return program.quality(spec_of(spec.reference).title)
