"""Convert a pickle-only checkpoint to safetensors once and record both hashes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError, WeightsError
from ..files import is_file, sweep_partials, written_whole
from .alone import writing
from .manifest import MODE, add_imported, read_manifest, record_key
from .tensors import read_header, sha256
from .torch_file import METADATA, TorchFile, open_torch_file
from .torch_pickle import STORAGES, Refused
from .weights_file import refuse_pointer

_PARTS = ("unet", "vae", "vae_large", "text_encoder", "controlnet")
# As the serialiser of safetensors sorts tensors, so that each is aligned: then by name.
_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")
_MOST_HEADER_BYTES = 100_000_000  # safetensors reads no longer one
assert {dtype for dtype, _ in STORAGES.values()} == set(_ORDER)


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

    Peak memory is that of one storage and one tensor. The write is atomic, and one process at a
    time writes a checkpoint; if another has imported the same file meanwhile, that is returned.
    Raises UsageError if `target` exists without `force`, WeightsError if the pickle holds more than
    tensors.
    """
    if not is_file(source):
        raise UsageError(
            f"{source}: there is no such file; name the .bin, .pt or .ckpt that was downloaded"
        )
    if target.suffix != ".safetensors":
        raise UsageError(f"--to {target}: expected a name that ends in .safetensors")
    _refuse_present(target, force)
    refuse_pointer(source)
    with open_torch_file(source) as opened:
        source_digest = sha256(source)
        with _writes_to(target):
            folder = checkpoint_of(target)
            with writing(folder, manifest) as waited:
                done = waited and _imported_by_another(target, manifest, source_digest)
                if not done:
                    _refuse_present(target, force)
                    done = _write_whole(opened, target, source_digest), len(opened.tensors)
                    add_imported(manifest, folder, _name(target), done[0], source_digest)
        return Imported(target, done[1], done[0], source_digest, opened.ignored)


def _refuse_present(target: Path, force: bool) -> None:
    if is_file(target) and not force:
        raise UsageError(f"{target}: exists already; add --force to write it again")


@contextmanager
def _writes_to(target: Path) -> Iterator[None]:
    """Raise WeightsError where a file or the manifest cannot be written."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"{target}: cannot be written ({error}); free space, or name another place with --to, "
            "and for the manifest with $SDXS_WEIGHTS"
        ) from None


def _name(target: Path) -> str:
    return target.absolute().relative_to(checkpoint_of(target)).as_posix()


def _imported_by_another(
    target: Path, manifest: Path, source_digest: str
) -> tuple[str, int] | None:
    """Return hash and tensor count of a sound file that was imported of the same pickle."""
    record = read_manifest(manifest).get(record_key(checkpoint_of(target), manifest))
    made = record and record.files.get(_name(target))
    if not made or made.source_sha256 != source_digest or not is_file(target):
        return None
    return (made.sha256, len(read_header(target))) if sha256(target) == made.sha256 else None


def _write_whole(opened: TorchFile, target: Path, source_digest: str) -> str:
    """Write all tensors; return the sha256 of the file in its place. Raises OSError."""
    sweep_partials(target.parent, target)
    with written_whole(target, MODE) as partial:
        _write(opened, partial, source_digest)
        read_header(partial)  # raises for a file that safetensors would not open
        written = sha256(partial)
    if sha256(target) != written:
        raise WeightsError(
            f"{target}: is not what was written; does another program write there, or is the disk "
            "failing? Import it again with --force"
        )
    return written


def _write(opened: TorchFile, path: Path, source_digest: str) -> None:
    """Write a safetensors file, one storage of the pickle after the other."""
    names = sorted(
        opened.tensors, key=lambda name: (_ORDER.index(opened.tensors[name].storage.dtype), name)
    )
    header: dict[str, object] = {METADATA: {"format": "pt", "source_sha256": source_digest}}
    starts, end = {}, 0
    for name in names:
        tensor = opened.tensors[name]
        starts[name], end = end, end + tensor.bytes
        header[name] = {
            "dtype": tensor.storage.dtype,
            "shape": tensor.shape,
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MOST_HEADER_BYTES:
        raise Refused(
            f"its names and shapes take {len(text):,} bytes, {_MOST_HEADER_BYTES:,} are the limit"
        )
    with path.open("r+b") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, content in opened.by_storage():
            file.seek(8 + len(text) + starts[name])
            file.write(content.data)
