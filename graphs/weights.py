"""Read a checkpoint's tensors for the graphs."""

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..common.adapt.fusing import Tensors
from ..common.checkpoint.tensor_reader import TensorReader
from .compression import Compression


@dataclass
class Store:
    """An open weights file, the compression of its large tensors, and the compression error.

    read: names of the tensors read so far. error, energy: sums of squared differences and of
    squares over the compressed tensors.
    """

    path: Path
    compression: Compression = "float16"
    tensors: Tensors | None = None  # by default those of the file as it is
    read: set[str] = field(default_factory=set)
    error: float = 0.0
    energy: float = 0.0

    def __enter__(self) -> Self:
        self._file = self.tensors or TensorReader(self.path)
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

    def note_error(self, rebuilt: np.ndarray, values: np.ndarray) -> None:
        """Add the compression error of one tensor."""
        difference = rebuilt.astype(np.float32) - values
        self.error += float(np.sum(np.square(difference), dtype=np.float64))
        self.energy += float(np.sum(np.square(values), dtype=np.float64))


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
        """Return the key as the name of an operation."""
        return self.prefix + self.name.replace(".", "_")

    def float32(self, name: str) -> np.ndarray:
        return self.store.tensor(self[name].name).astype(np.float32)

    def bias(self) -> np.ndarray | None:
        """Return the float32 bias, or None if the checkpoint has none."""
        return self.float32("bias") if "bias" in self else None
