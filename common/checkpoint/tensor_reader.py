"""Read single tensors of a weights file as NumPy arrays, whatever its layout on disk and its dtype.

NumPy has no bfloat16; such tensors are read as float32, which holds every bfloat16 exactly.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import WeightsError, reason
from .tensors import TensorInfo, read_header

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_EXPONENTS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}  # all set: NaN or infinite
_MANTISSAS = {"F32": 0x007FFFFF, "F16": 0x03FF, "BF16": 0x007F}
_CHUNK = 1 << 22  # scalars looked at at once
# The last convolutions of a ControlNet start at zero, and stay there until it is trained.
_MAY_BE_ZERO = ("controlnet_",)


class TensorReader:
    """Read the tensors of one weights file, by diffusers' present names. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Read the header, and nothing else. Raises WeightsError unless the file is sound."""
        self._path = path
        self._header = read_header(path)
        self._starts = {
            file: _starts(file) for file in {info.file for info in self._header.values()}
        }

    def __contains__(self, name: str) -> bool:
        return name in self._header

    def array(self, name: str) -> np.ndarray:
        """Return a tensor as float16 or float32, in PyTorch's order. Raises WeightsError."""
        info = self._info(name)
        return _floats(np.array(self._stored(name)), info.dtype)

    def row(self, name: str, row: int) -> np.ndarray:
        """Return one row of a tensor as float16 or float32; the others are not read."""
        return _floats(np.array(self._stored(name)[row]), self._info(name).dtype)

    def complaints(self, names: Iterable[str]) -> Iterator[str]:
        """Yield what is wrong with the values of these tensors: NaN, infinite, or all zero.

        A bias may be zero throughout. Needs memory for a part of a tensor at a time.
        """
        for name in names:
            nan, infinite, zero = self._count(name)
            if nan or infinite:
                what = [f"{n:,} {w}" for n, w in ((nan, "NaN"), (infinite, "infinite")) if n]
                yield f"{name} holds {' and '.join(what)} values"
            elif zero and name.endswith(".weight") and not name.startswith(_MAY_BE_ZERO):
                yield f"{name} is zero throughout"

    def _count(self, name: str) -> tuple[int, int, bool]:
        """Return the number of NaN and of infinite values, and whether all are zero."""
        dtype, nan, infinite, zero = self._info(name).dtype, 0, 0, True
        exponent, mantissa = _EXPONENTS[dtype], _MANTISSAS[dtype]
        flat = self._stored(name).reshape(-1)
        bits = flat.view("<u4" if dtype == "F32" else "<u2")
        for first in range(0, bits.size, _CHUNK):
            part = bits[first : first + _CHUNK]
            magnitude = part & (exponent | mantissa)
            zero = zero and not magnitude.any()
            if magnitude.max() >= exponent:
                nan += int(np.count_nonzero(magnitude > exponent))
                infinite += int(np.count_nonzero(magnitude == exponent))
        return nan, infinite, zero

    def _info(self, name: str) -> TensorInfo:
        info = self._header.get(name)
        if info is None or info.dtype not in _DTYPES:
            what = "is missing" if info is None else f"has dtype {info.dtype}"
            raise WeightsError(
                f"{self._path}: {name} {what}, expected {' or '.join(_DTYPES)}; run `sdxs weights "
                "verify`, or pull the checkpoint again"
            )
        return info

    def _stored(self, name: str) -> np.ndarray:
        """Map a tensor from its file; bfloat16 as its bits."""
        info = self._info(name)
        if 0 in info.shape:
            return np.zeros(info.shape, _DTYPES[info.dtype])
        start = self._starts[info.file][info.stored]
        try:
            return np.memmap(info.file, _DTYPES[info.dtype], "r", start, info.shape or (1,))
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{info.file}: {name} cannot be read ({reason(error)}); pull the checkpoint again"
            ) from None


def _floats(stored: np.ndarray, dtype: str) -> np.ndarray:
    """Return float16 and float32 as they are, the bits of bfloat16 as float32."""
    return (stored.astype("<u4") << 16).view("<f4") if dtype == "BF16" else stored


def _starts(path: Path) -> dict[str, int]:
    """Return where each tensor of a sound safetensors file starts, in bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: 8 + length + int(entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def check_values(path: Path, names: Iterable[str]) -> None:
    """Raise WeightsError if one of these tensors holds NaN or infinities, or only zeros."""
    wrong = list(TensorReader(path).complaints(names))
    if wrong:
        more = f", and {len(wrong) - 1} more tensors like it" if len(wrong) > 1 else ""
        raise WeightsError(
            f"{path}: {wrong[0]}{more}; the file is damaged or its training failed: pull or copy "
            "it again, or take the file of another precision"
        )
