"""Check the content of a safetensors file before a framework reads it; never open a pickle."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open

from ..errors import WeightsError
from .layout import Layout

FLOAT_DTYPES = ("F32", "F16", "BF16")
_PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_ZIP = b"PK"  # torch.save since 1.6: a zip around a pickle
_PICKLE_PROTOCOL = b"\x80"  # first byte of a bare pickle, protocol 2 and later


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Hold the shape and the safetensors dtype ('F32', 'F16', ...) of a stored tensor."""

    shape: tuple[int, ...]
    dtype: str


class _Slice(Protocol):
    """The used methods of safetensors' untyped slice."""

    def get_shape(self) -> list[int]: ...
    def get_dtype(self) -> str: ...


def read_header(path: Path) -> dict[str, TensorInfo]:
    """List the tensors of a safetensors file without reading them.

    Raises WeightsError unless the file is sound safetensors.
    """
    if not path.is_file():
        pickles = sorted(p.name for p in path.parent.glob("*") if p.suffix in _PICKLE_SUFFIXES)
        found = (
            f"; the folder holds {pickles[0]}, a pickle, which is never loaded" if pickles else ""
        )
        raise WeightsError(
            f"{path}: file is missing{found}; pull the checkpoint again or name another with "
            "--model"
        )
    try:
        with path.open("rb") as file:
            magic = file.read(2)
        with safe_open(path, framework="numpy") as tensors:
            return {key: _info(tensors.get_slice(key)) for key in tensors.keys()}  # noqa: SIM118 - not a mapping
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    except SafetensorError as error:
        if magic == _ZIP or magic[:1] == _PICKLE_PROTOCOL:
            raise WeightsError(
                f"{path}: this is a pickle under a safetensors name; unpickling can run any code, "
                "so it is never loaded; get the checkpoint as safetensors"
            ) from None
        raise WeightsError(
            f"{path}: damaged or truncated ({path.stat().st_size:,} bytes; {error}); "
            "delete it and pull the checkpoint again"
        ) from None


def _info(tensor: _Slice) -> TensorInfo:
    return TensorInfo(tuple(tensor.get_shape()), tensor.get_dtype())


def check_layout(
    path: Path,
    expected: Layout,
    dtypes: Iterable[str] = FLOAT_DTYPES,
    ignored: Iterable[str] = (),
    prefix: str = "",
) -> None:
    """Raise WeightsError unless the file holds exactly the tensors of `expected`.

    dtypes: the valid dtypes. ignored: names of stored buffers without weights. prefix: prefix of
    every name in the file.
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
    extra = sorted(set(found) - set(wanted) - {prefix + name for name in ignored})
    if extra:
        raise WeightsError(
            _mismatch(path, f"{len(extra)} tensors its config knows nothing of, first {extra[0]!r}")
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


def _mismatch(path: Path, what: str) -> str:
    return (
        f"{path}: {what}; weights and config.json do not belong together, pull or copy both again"
    )


def sha256(path: Path) -> str:
    """Return the sha256 of a file as a hex digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_sha1(path: Path) -> str:
    """Return git's sha1 of a file's content, the hub's hash of a small file."""
    start = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: start).hexdigest()
