"""`sdxs convert`: build Core ML programs ahead of a session."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ..common.backend.assembly import ModelOptions, options_for, programs_of
from ..common.backend.spec import spec_of
from ..common.checkpoint.find import find
from ..common.settings import repeated, setting
from ..coreml_backend.options import CoreMLOptions
from .console import out
from .live import LiveOptions
from .options import Given, with_settings
from .programs import build, quality

if TYPE_CHECKING:
    from ..common.backend.programs import Prepared
    from ..common.backend.spec import BackendSpec


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What only this command knows."""

    noise_seed: int | None = repeated(CoreMLOptions, "noise_seed", flag="--fixed-noise")
    force: bool = setting(False, "build it again")
    listed: bool = setting(False, "show what is built, and build nothing", flag="--list")
    verbose: bool = repeated(LiveOptions, "verbose")


@with_settings(
    [spec_of("coreml")],
    leave_out=("strength", "steps", "control", "dtype", "coreml_runtime"),
)
def convert(model: ModelOptions, more: ConvertOptions, given: Given) -> None:
    """Build the Core ML program of a checkpoint ahead of a session, from its safetensors, and
    check it against MLX.
    """
    spec = spec_of("coreml")
    if more.listed:
        programs = programs_of(spec)
        assert programs is not None
        _list_programs(spec, programs.listed())
        return
    checkpoint = find(model.model, model.vae)
    values = given.for_backends() | {
        "coreml_runtime": "coreml" if spec.runs_here() else "reference",
        "noise_seed": more.noise_seed,
    }
    sides = values.get("sizes")
    default = min(sides) if isinstance(sides, tuple) and sides else checkpoint.frame.size
    options = options_for(spec, default if model.size is None else model.size, values)
    (program,) = build(spec, checkpoint, options, more.force, more.verbose)
    out.print(
        f"the Core ML program of {escape(checkpoint.name)} is ready; {program.judge} rendered a "
        "probe frame as MLX does"
    )
    out.print(
        escape(
            f"{program.size_bytes / 1e6:.0f} MB, built in {program.seconds:.1f} s; "
            f"{quality(spec, program)}"
        )
    )


def _list_programs(spec: "BackendSpec", programs: "list[Prepared]") -> None:
    table = Table(
        "model",
        "variant",
        "size",
        "built in",
        "against MLX",
        "weights off by",
        "folder",
        title=f"{spec.title} programs",
        title_justify="left",
    )
    for program in programs:
        size = f"{program.size_bytes / 1e6:.0f} MB"
        if program.damaged:
            table.add_row("", "[red]damaged record[/]", size, "", "", "", program.folder.name)
            continue
        found = program.quality_db.values()
        table.add_row(
            escape(program.model),
            escape(" ".join(program.variant)),
            size,
            f"{program.seconds:.0f} s",
            f"{min(found):.1f} dB" if found else "not checked yet",
            f"{program.weights_error:.2%}" if program.weights_error else "",
            program.folder.name,
        )
    out.print(table)
