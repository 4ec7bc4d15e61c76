"""Convert a pickle-only checkpoint to safetensors once and record both hashes."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, TensorSpec, serialize_file

from ..errors import UsageError, WeightsError
from ..files import written_whole
from .manifest import MODE, add_imported
from .tensors import read_header, sha256
from .torch_file import open_torch_file
from .torch_pickle import STORAGES
from .weights_file import refuse_pointer

_PARTS = ("unet", "vae", "vae_large", "text_encoder", "controlnet")
# dtype in a safetensors header -> dtype of the safetensors serialiser
_SERIALISED = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
assert {dtype for dtype, _ in STORAGES.values()} == set(_SERIALISED)


@dataclass(frozen=True, slots=True)
class Imported:
    """Hold the result of an import: the file, its tensor count, both hashes, skipped entries."""

    path: Path
    tensors: int
    sha256: str
    source_sha256: str
    ignored: tuple[str, ...]


def target_of(source: Path) -> Path:
    """Return the default path of an imported file: beside its pickle, named as in diffusers."""
    stem = "model" if source.stem == "pytorch_model" else source.stem
    return source.with_name(f"{stem}.safetensors")


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint folder of a weights file."""
    folder = path.absolute().parent
    return folder.parent if folder.name in _PARTS else folder


def import_torch(source: Path, target: Path, manifest: Path, force: bool = False) -> Imported:
    """Write the tensors of `source` to the safetensors file `target`; record both hashes.

    Peak memory is the size of the tensors. The write is atomic. Raises UsageError if `target`
    exists without `force`, WeightsError if the pickle holds more than tensors.
    """
    if not source.is_file():
        raise UsageError(
            f"{source}: there is no such file; name the .bin, .pt or .ckpt that was downloaded"
        )
    if target.suffix != ".safetensors":
        raise UsageError(f"--to {target}: expected a name that ends in .safetensors")
    if target.exists() and not force:
        raise UsageError(f"{target}: exists already; add --force to write it again")
    refuse_pointer(source)
    with open_torch_file(source) as opened:
        values = {name: opened.scalars(name) for name in opened.tensors}
        # specs hold addresses; `values` keeps their arrays alive
        specs = {
            name: TensorSpec(
                dtype=_SERIALISED[tensor.storage.dtype],
                shape=tensor.shape,
                data_ptr=values[name].ctypes.data,
                data_len=tensor.bytes,
            )
            for name, tensor in opened.tensors.items()
        }
        ignored = opened.ignored
    source_digest = sha256(source)
    try:
        with written_whole(target, MODE) as partial:
            serialize_file(specs, partial, {"format": "pt", "source_sha256": source_digest})
            found = read_header(partial)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{target}: cannot be written ({error}); free space, or name another place with --to"
        ) from None
    digest, folder = sha256(target), checkpoint_of(target)
    add_imported(
        manifest, folder, target.absolute().relative_to(folder).as_posix(), digest, source_digest
    )
    return Imported(target, len(found), digest, source_digest, ignored)
