"""`sdxs weights`: list, pull, import and verify checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..common.backend.assembly import ModelOptions, open_checkpoint_for
from ..common.errors import SdxsError, UsageError, WeightsError
from ..common.files import expanded
from ..common.settings import repeated, setting
from .console import err, out
from .options import described, with_settings

Model = Annotated[str, typer.Argument(help="Name of a checkpoint.")]


def weights_list() -> None:
    """Show every known checkpoint, whether it is here, and under which licence."""
    from ..common.checkpoint.find import control_folder, local_folder
    from ..common.checkpoint.registry import ENTRIES

    table = Table(title="checkpoints", title_justify="left")
    table.add_column("model", no_wrap=True)
    for heading in ("here", "licence", "what"):
        # Whole, however narrow the terminal: licences are read here.
        table.add_column(heading, overflow="fold")
    for known in ENTRIES.values():
        here = local_folder(known)
        state = here[1] if here else "pickle only" if known.pickle_only else "can be pulled"
        state = "weights" if control_folder(known) else state
        table.add_row(known.name, state, known.licence, known.note)
    out.print(table)
    out.print("pickle only: " + next(k.pickle_only for k in ENTRIES.values() if k.pickle_only))


@dataclass(frozen=True, slots=True)
class PullOptions:
    """Which parts are pulled."""

    vae: str = repeated(ModelOptions, "vae")


@with_settings()
def weights_pull(
    model: Model,
    asked: PullOptions,
) -> None:
    """Download a checkpoint, verified, resuming where an earlier pull stopped."""
    from ..common.checkpoint.find import local_folder, open_checkpoint, weights_folder
    from ..common.checkpoint.hub import pull
    from ..common.checkpoint.registry import entry

    known = entry(model)
    here = local_folder(known, asked.vae)
    if here and not known.repo:
        out.print(f"{model} needs no pulling, it is in the repository: {escape(str(here[0]))}")
        return
    out.print(escape(f"{model}: licence {known.licence}"))
    folder = pull(known, weights_folder(), asked.vae)
    open_checkpoint(folder, model, vae_folder=asked.vae).verify()
    out.print(f"{model} is complete and verified: {escape(str(folder))}")


def weights_verify(
    models: Annotated[
        list[str] | None, described("Names or paths of checkpoints.", "all that are here")
    ] = None,
) -> None:
    """Check names, shapes, dtypes, values and recorded sha256 of every tensor of checkpoints."""
    from ..common.checkpoint.find import find, local_folder, weights_folder
    from ..common.checkpoint.manifest import verify_hashes
    from ..common.checkpoint.registry import ENTRIES

    names = models or [known.name for known in ENTRIES.values() if local_folder(known)]
    damaged = 0
    for name in names:
        try:
            with err.status(f"verifying {name}"):
                checkpoint = find(name, download=False)
                checkpoint.verify()
                checkpoint.check_values()
                hashes = verify_hashes(
                    checkpoint.folder, weights_folder() / "manifest.json", rehash=True
                )
        except UsageError:
            raise
        except SdxsError as error:
            if name in ENTRIES and not local_folder(ENTRIES[name]):
                raise  # it is not here, which is no damage
            damaged += 1
            out.print(f"[red]damaged[/]  {escape(name)}: {escape(str(error))}")
            continue
        known = f"{hashes} files match their sha256" if hashes else "no hashes are recorded for it"
        out.print(
            f"[green]good[/]  {escape(name)}: tensors fit the configs and hold numbers, {known}"
        )
    if damaged:
        raise WeightsError(f"{damaged} of {len(names)} checkpoints are damaged")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Where an imported pickle goes."""

    to: Path | None = setting(None, "file to write", shown="beside the pickle, as .safetensors")
    force: bool = setting(False, "write over a file that is there")


@with_settings()
def weights_import(
    files: Annotated[
        list[Path], typer.Argument(help="Pickles written by torch.save: .bin, .pt, .pth, .ckpt.")
    ],
    asked: ImportOptions,
) -> None:
    """Turn pickles into safetensors; only tensors are taken over, and nothing is run."""
    from ..common.checkpoint.find import weights_folder
    from ..common.checkpoint.torch_import import import_torch, target_of
    from ..common.files import Written, refuse_overlaps

    if asked.to and len(files) > 1:
        raise UsageError(
            f"--to {asked.to}: names one file, and {len(files)} are to be imported; import them "
            "one by one"
        )
    sources = [expanded(file) for file in files]
    targets = [asked.to or target_of(source) for source in sources]
    refuse_overlaps(
        [("FILES", source) for source in sources],
        [
            Written("--to" if asked.to else f"the import of {source.name}:", target)
            for source, target in zip(sources, targets, strict=True)
        ],
    )
    for source, target in zip(sources, targets, strict=True):
        with err.status(f"importing {source.name}"):
            done = import_torch(
                source,
                target,
                weights_folder() / "manifest.json",
                asked.force,
            )
        out.print(
            escape(
                f"{done.path}: {done.tensors} tensors, sha256 {done.sha256}; the pickle's was "
                f"{done.source_sha256}"
            )
        )
        if done.ignored:
            err.print(escape(f"left out, being no weights: {', '.join(done.ignored)}"))


@dataclass(frozen=True, slots=True)
class FuseOptions:
    """What is fused, and where it goes."""

    lora: tuple[str, ...] = repeated(ModelOptions, "lora")
    lora_partial: bool = repeated(ModelOptions, "lora_partial")
    to: Path | None = setting(None, "folder to write the checkpoint to; required")
    force: bool = setting(False, "replace a fused checkpoint that is there")


@with_settings()
def weights_fuse(model: Model, asked: FuseOptions) -> None:
    """Write a checkpoint with LoRAs fused into it, verified, to be loaded like any other."""
    from ..common.adapt.writing import write_fused

    if asked.to is None:
        raise UsageError("--to is missing; name the folder to write, as --to weights/mine")
    options = ModelOptions(model, lora=asked.lora, lora_partial=asked.lora_partial)
    with err.status(f"fusing into {model}"):
        done = write_fused(open_checkpoint_for(options), asked.to, asked.force)
    for name, misfits in done.misfits.items():
        for layer, why in misfits:
            err.print(escape(f"{name}: left out {layer}: {why}"), style="dim")
    out.print(
        escape(
            f"{done.folder}: {done.changed} tensors changed, verified; use --model {done.folder}"
        )
    )


def weights_path(
    model: Model,
) -> None:
    """Print the folder of a checkpoint on this machine."""
    from ..common.checkpoint.find import find

    out.print(escape(str(find(model, download=False).folder)))


app = typer.Typer(no_args_is_help=True, help="List, pull, import, fuse and verify checkpoints.")
app.command("list")(weights_list)
app.command("pull")(weights_pull)
app.command("verify")(weights_verify)
app.command("import")(weights_import)
app.command("fuse")(weights_fuse)
app.command("path")(weights_path)
