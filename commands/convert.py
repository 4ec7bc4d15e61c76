"""`sdxs convert`: build the programs of a backend ahead of a session."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ..common.adapt.loras import read_loras
from ..common.backend.assembly import ModelOptions, options_for, programs_of, with_loras
from ..common.backend.spec import spec_of, specs
from ..common.checkpoint.find import find
from ..common.errors import UsageError
from ..common.settings import known_settings, repeated, setting
from .console import out
from .live import LiveOptions
from .options import Given, with_settings
from .programs import build, quality

if TYPE_CHECKING:
    from ..common.backend.programs import Prepared
    from ..common.backend.spec import BackendSpec


BUILDERS = [spec for spec in specs().values() if spec.programs]
# What `BackendSpec.building` decides is no option here.
DECIDED = [
    known_settings(spec.options, spec.building(), spec.name)[name].parameter
    for spec in BUILDERS
    for name in spec.building()
]


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What only this command knows."""

    backend: str = setting(
        BUILDERS[0].name if BUILDERS else "",
        f"backend whose programs are built: {', '.join(spec.name for spec in BUILDERS)}",
    )
    fixed_noise: int | None = setting(
        None, "build the noise of this seed into the program", minimum=0, shown="noise as input"
    )
    force: bool = setting(False, "build it again")
    listed: bool = setting(False, "show what is built, and build nothing", flag="--list")
    verbose: bool = repeated(LiveOptions, "verbose")


@with_settings(
    BUILDERS,
    leave_out=("strength", "steps", "control", "dtype", *DECIDED),
    concerns={"fixed_noise": lambda spec: spec.obeys("noise_seed")},
)
def convert(model: ModelOptions, more: ConvertOptions, given: Given) -> None:
    """Build a checkpoint's programs ahead of a session, from its safetensors, and check them."""
    spec = spec_of(more.backend)
    programs = programs_of(spec)
    if programs is None:
        raise UsageError(
            f"--backend {spec.name}: it runs a checkpoint as it is, so there is nothing to build; "
            f"expected one of {', '.join(each.name for each in BUILDERS)}"
        )
    if more.listed:
        _list_programs(spec, programs.listed())
        return
    given.refuse_ignored([spec])
    checkpoint = find(model.model, model.vae)
    if model.lora:
        checkpoint = with_loras(checkpoint, read_loras(model.lora, model.lora_partial))
    values = given.for_backends() | {"noise_seed": more.fixed_noise}
    sides = values.get("sizes")
    smallest = min(sides) if isinstance(sides, tuple) and sides else None
    size = model.size or smallest or model.size_of(checkpoint)
    options = options_for(spec, size, values, spec.building())
    (program,) = build(spec, checkpoint, options, more.force, more.verbose)
    out.print(
        f"the {spec.title} program of {escape(checkpoint.name)} is ready; {program.judge} rendered "
        f"a probe frame as {spec_of(spec.reference).title} does"
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
        f"against {spec_of(spec.reference).title}",
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
