"""`sdxs convert`: build Core ML programs ahead of a session."""

from typing import TYPE_CHECKING, Annotated

from rich.markup import escape
from rich.table import Table
from typer import Option

from .console import out
from .programs import ATTENTION_HELP, WEIGHTS_HELP, build, quality, read, settings_given

if TYPE_CHECKING:
    from ..common.backend.programs import Prepared
    from ..common.backend.spec import BackendSpec


def convert(
    model: Annotated[str, Option(help="Checkpoint by name or path.")] = "sdxs-512-0.9",
    size: Annotated[
        int | None,
        Option(help="Side of the picture. [default: the checkpoint's]", show_default=False),
    ] = None,
    sizes: Annotated[
        str | None, Option(help="Several sides in one package that shares its weights, as 256,512.")
    ] = None,
    attention: Annotated[str, Option(help=ATTENTION_HELP)] = "sdpa",
    weights: Annotated[str, Option(help=WEIGHTS_HELP)] = "float16",
    input_form: Annotated[
        str, Option("--input", help="Pictures as float32 or as image.")
    ] = "float32",
    compute_units: Annotated[
        str | None, Option(help="Whom to prepare and check it for; see `sdxs live`.")
    ] = None,
    placement: Annotated[
        str | None, Option(help="Three programs for compute units of their own; see `sdxs live`.")
    ] = None,
    fixed_noise: Annotated[
        int | None, Option(min=0, help="Build the noise of this seed into the program.")
    ] = None,
    vae: Annotated[
        str, Option(help="Folder of the VAE in the checkpoint: vae or vae_large.")
    ] = "vae",
    force: Annotated[bool, Option("--force", help="Build it again.")] = False,
    list_built: Annotated[
        bool, Option("--list", help="Show what is built, and build nothing.")
    ] = False,
    verbose: Annotated[
        bool, Option("--verbose", help="Say which unit runs how many operations.")
    ] = False,
) -> None:
    """Build the Core ML program of a checkpoint ahead of a session, from its safetensors, and
    check it against MLX.
    """
    from ..common.backend.assembly import options_for, programs_of
    from ..common.backend.spec import spec_of
    from ..common.checkpoint.find import find

    spec = spec_of("coreml")
    if list_built:
        programs = programs_of(spec)
        assert programs is not None
        _list_programs(spec, programs.listed())
        return
    checkpoint = find(model, vae)
    given = settings_given(
        attention=attention,
        weights=weights,
        coreml_runtime="coreml" if spec.runs_here() else "reference",
        input=input_form,
        sizes=sizes,
        placement=placement,
        noise_seed=fixed_noise,
        compute_units=compute_units,
    )
    sides = [int(part) for part in (sizes or "").split(",") if part.isdecimal()]
    default = min(sides) if sides else checkpoint.frame.size
    options = options_for(spec, default if size is None else size, read(spec, given))
    (program,) = build(spec, checkpoint, options, force, verbose)
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
