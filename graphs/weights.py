"""Read a checkpoint's tensors for the networks, and check their rounding to float16."""

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ...common.checkpoint.tensor_reader import TensorReader
from ...common.errors import WeightsError
from ..options import Compression


@dataclass
class Store:
    """An open weights file, the compression of its large tensors, and the compression error.

    read: names of the tensors read so far. error, energy: sums of squared differences and of
    squares over the compressed tensors. blockwise: macOS 15's compression operations, not macOS
    13's.
    """

    path: Path
    compression: Compression = "float16"
    blockwise: bool = True
    read: set[str] = field(default_factory=set)
    error: float = 0.0
    energy: float = 0.0

    def __enter__(self) -> Self:
        self._file = TensorReader(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del self._file

    def __contains__(self, name: str) -> bool:
        return name in self._file

    def tensor(self, name: str) -> np.ndarray:
        self.read.add(name)
        return self._file.array(name)


@dataclass(frozen=True)
class Weights:
    """The tensors of a file under one key: `weights["conv1"]["weight"]` is `conv1.weight`."""

    store: Store
    name: str = ""
    prefix: str = ""  # of labels; keeps the names of two networks in one program apart

    def __getitem__(self, name: str | int) -> "Weights":
        return Weights(self.store, f"{self.name}.{name}" if self.name else str(name), self.prefix)

    def __contains__(self, name: str) -> bool:
        return self[name].name in self.store

    @property
    def label(self) -> str:
        """Return the key as a MIL name."""
        return self.prefix + self.name.replace(".", "_")

    def float32(self, name: str) -> np.ndarray:
        return self.store.tensor(self[name].name).astype(np.float32)

    def bias(self) -> np.ndarray | None:
        """Return the float32 bias, or None if the checkpoint has none."""
        return self.float32("bias") if "bias" in self else None


def half(values: np.ndarray, name: str) -> np.ndarray:
    """Round to float16. Raises WeightsError if a result is not finite."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise WeightsError(
            f"{name}: holds values that float16 cannot; Core ML computes in float16, use "
            "`--backend mlx --dtype float32`"
        )
    return rounded
