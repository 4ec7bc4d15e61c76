"""Turn a checkpoint that exists only as a pickle into safetensors, once, recording both hashes."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, TensorSpec, serialize_file

from ..errors import UsageError, WeightsError
from ..files import written_whole
from .manifest import MODE, add_imported
from .tensors import read_header, sha256
from .torch_file import open_torch_file
from .torch_pickle import STORAGES

_PARTS = ("unet", "vae", "vae_large", "text_encoder", "controlnet")
# safetensors' own header calls BF16 what its serialiser wants spelled out
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
    """What an import left: the file, how many tensors it holds, both hashes, and what was left
    out.
    """

    path: Path
    tensors: int
    sha256: str
    source_sha256: str
    ignored: tuple[str, ...]


def target_of(source: Path) -> Path:
    """Where an imported file is looked for: beside its pickle, under the name the diffusers layout
    gives it.
    """
    stem = "model" if source.stem == "pytorch_model" else source.stem
    return source.with_name(f"{stem}.safetensors")


def checkpoint_of(path: Path) -> Path:
    """The checkpoint folder a weights file belongs to."""
    folder = path.absolute().parent
    return folder.parent if folder.name in _PARTS else folder


def import_torch(source: Path, target: Path, manifest: Path, force: bool = False) -> Imported:
    """Write the tensors of `source` to `target`, a safetensors file, and record both in the
    manifest.

    Peak memory is the size of the tensors. The file appears whole or not at all. Raises UsageError
    if `target` exists and `force` is not given, WeightsError for anything in the pickle but
    tensors.
    """
    if not source.is_file():
        raise UsageError(
            f"{source}: there is no such file; name the .bin, .pt or .ckpt that was downloaded"
        )
    if target.suffix != ".safetensors":
        raise UsageError(f"--to {target}: expected a name that ends in .safetensors")
    if target.exists() and not force:
        raise UsageError(f"{target}: exists already; add --force to write it again")
    with open_torch_file(source) as opened:
        values = {name: opened.scalars(name) for name in opened.tensors}
        # these hold addresses; `values` keeps what is there alive
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
