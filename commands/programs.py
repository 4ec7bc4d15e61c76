"""Build the programs that a backend needs, showing progress."""

from importlib import metadata
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from .console import err, steps

if TYPE_CHECKING:
    from ..common.backend.options import BackendOptions
    from ..common.backend.programs import Prepared
    from ..common.backend.spec import BackendSpec
    from ..common.checkpoint.find import Checkpoint

# Names alone: a child process imports this module again, and must not load every backend.
BACKENDS = ", ".join(entry.name for entry in metadata.entry_points(group="sdxs.backends"))
DEFAULT_PROMPT = "an oil painting"
DEFAULT_MODEL = "sdxs-512-0.9"
ATTENTION_HELP = "sdpa (macOS 15), matmul (14) or split_einsum, the Neural Engine's layout."
WEIGHTS_HELP = "float16, int8, palettize8, palettize6, palettize4 or palettize2."


def settings_given(**chosen: str | int | None) -> dict[str, str]:
    """The settings that were given, as texts by parameter."""
    return {name: str(value) for name, value in chosen.items() if value is not None}


def read(spec: "BackendSpec", given: dict[str, str]) -> dict[str, object]:
    """The values of those settings that a backend knows."""
    from ..common.settings import settings_of

    known = {each.parameter: each for each in settings_of(spec.options)}
    return {name: known[name].parse(text) for name, text in given.items() if name in known}


def build(
    spec: "BackendSpec",
    checkpoint: "Checkpoint",
    options: "BackendOptions",
    force: bool = False,
    verbose: bool = False,
) -> "list[Prepared]":
    """Make sure that the programs are built, checked and met before a backend asks for them,
    showing progress.
    """
    from ..common.backend.assembly import prepare
    from ..common.backend.spec import spec_of

    if not spec.programs:
        return []
    try:
        with steps(f"{spec.title} program") as report:
            programs = prepare(spec, checkpoint, options, report, force)
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
