"""Check the content of a safetensors file before a framework reads it; never open a pickle."""

import hashlib
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open

from ..errors import SdxsWarning, WeightsError
from .layout import Layout
from .weights_file import absent, files_of, is_index, refuse_pointer

FLOAT_DTYPES = ("F32", "F16", "BF16")
_ZIP = b"PK\x03\x04"  # torch.save since 1.6: a zip around a pickle
_PICKLE_PROTOCOLS = [bytes((0x80, protocol)) for protocol in range(2, 6)]  # of a bare pickle
_LONG_HEADER = 1 << 20  # bytes; no real header of safetensors is longer
# The VAE's attention before diffusers 0.12, which still reads these names.
_OLD_ATTENTION = re.compile(
    r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))"
)
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# Tensors beside the network's own that diffusers and transformers leave out, and that say nothing
# about the network: buffers, a projection that no picture uses, averages of the training.
_BESIDE = re.compile(
    r"(.*\.)?(position_ids|text_projection(\.weight)?|logit_scale|num_batches_tracked)"
    r"|(model_)?ema(_model)?\..*|optimizer\..*"
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Hold the shape and the safetensors dtype ('F32', 'F16', ...) of a stored tensor.

    file, stored: the safetensors file that holds it, and its name there.
    """

    shape: tuple[int, ...]
    dtype: str
    file: Path = field(default=Path(), compare=False)
    stored: str = field(default="", compare=False)


class _Slice(Protocol):
    """The used methods of safetensors' untyped slice."""

    def get_shape(self) -> list[int]: ...
    def get_dtype(self) -> str: ...


def read_header(path: Path) -> dict[str, TensorInfo]:
    """List the tensors of a weights file without reading them, by diffusers' present names.

    path: a safetensors file, or the index of shards. Raises WeightsError unless it is sound.
    """
    found: dict[str, TensorInfo] = {}
    for file in files_of(path):
        header = _read_file_header(file)
        if twice := sorted(set(header) & set(found)):
            raise WeightsError(
                f"{file}: holds {twice[0]!r}, and so does {found[twice[0]].file.name}; copy the "
                "index again with its shards"
            )
        found |= header
    return found


def _read_file_header(path: Path) -> dict[str, TensorInfo]:
    if not path.is_file():
        raise WeightsError(absent(path))
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        with safe_open(path, framework="numpy") as tensors:
            names = tensors.keys()
            taken = set(names)
            return {
                _present_name(key, taken): _info(tensors.get_slice(key), path, key) for key in names
            }
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    except SafetensorError as error:
        refuse_pointer(path)
        if _is_pickle(start):
            raise WeightsError(
                f"{path}: this is a pickle under a safetensors name; unpickling can run any code, "
                "so it is never loaded; get the checkpoint as safetensors"
            ) from None
        raise WeightsError(
            f"{path}: damaged or truncated ({path.stat().st_size:,} bytes; {error}); "
            "delete it and pull the checkpoint again"
        ) from None


def _is_pickle(start: bytes) -> bool:
    """Tell a pickle by its first 9 bytes; safetensors starts with its header's length and '{'."""
    if start[8:] in (b"", b"{") or int.from_bytes(start[:8], "little") < _LONG_HEADER:
        return False
    return start[:4] == _ZIP or start[:2] in _PICKLE_PROTOCOLS


def _present_name(name: str, taken: set[str]) -> str:
    """Return the name that diffusers now gives a tensor with an old one."""
    if match := _OLD_ATTENTION.fullmatch(name):
        present = match[1] + _NEW_ATTENTION[match[2]] + match[3]
        return name if present in taken else present
    return name


def _info(tensor: _Slice, file: Path, name: str) -> TensorInfo:
    return TensorInfo(tuple(tensor.get_shape()), tensor.get_dtype(), file, name)


def check_layout(
    path: Path,
    expected: Layout,
    dtypes: Collection[str] = FLOAT_DTYPES,
    prefix: str = "",
    say: bool = True,
) -> None:
    """Raise WeightsError unless the file holds the tensors of `expected`.

    Others are left out, as in diffusers. Those that may belong to a larger network cause an
    SdxsWarning.

    dtypes: the valid dtypes. prefix: prefix of every expected name in the file.
    say: warn.
    """
    found = read_header(path)
    wanted = {prefix + name: shape for name, shape in expected.items()}
    missing = [name for name in wanted if name not in found]
    if missing:
        raise WeightsError(
            _mismatch(
                path, f"{len(missing)} of {len(wanted)} tensors missing, first {missing[0]!r}"
            )
        )
    for name, shape in wanted.items():
        if found[name].shape != shape:
            raise WeightsError(
                _mismatch(
                    path, f"{name} has shape {found[name].shape}, its config asks for {shape}"
                )
            )
        if found[name].dtype not in dtypes:
            raise WeightsError(
                _mismatch(
                    path, f"{name} has dtype {found[name].dtype}, expected {' or '.join(dtypes)}"
                )
            )

    extra = sorted(name for name in set(found) - set(wanted) if not _BESIDE.fullmatch(name))
    if extra and say:
        warnings.warn(
            f"{path}: {len(extra)} tensors its config knows nothing of are left out, first "
            f"{extra[0]!r}; if the pictures are wrong, copy weights and config.json from one place",
            SdxsWarning,
            stacklevel=2,
        )


def _mismatch(path: Path, what: str) -> str:
    return (
        f"{path}: {what}; weights and config.json do not belong together, pull or copy both again"
    )


def sha256(path: Path) -> str:
    """Return the sha256 of a file as a hex digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_weights(path: Path, of_file: Callable[[Path], str] = sha256) -> str:
    """Return one hash of a weights file; of an index, one over its own and its shards' hashes.

    of_file: returns the sha256 of one file.
    """
    if not is_index(path):
        return of_file(path)
    hashes = [of_file(path), *(of_file(shard) for shard in files_of(path))]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def git_blob_sha1(path: Path) -> str:
    """Return git's sha1 of a file's content, the hub's hash of a small file."""
    start = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: start).hexdigest()
