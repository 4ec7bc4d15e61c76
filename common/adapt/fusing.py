"""Fit LoRAs to a checkpoint, and compute the tensors that they change: W += s (alpha / rank) B A.

Everything is float32. Several LoRAs each change the checkpoint's own weight, so their order makes
no difference. A weight of 0 leaves a LoRA out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..checkpoint.layout import Layout
from ..checkpoint.tensor_reader import TensorReader
from .lora_file import Change
from .names import Network

_SHOWN = 4  # layers that a message names
LEAST_FITTING = 0.9  # share of its layers with which a LoRA is taken without being told


class Tensors(Protocol):
    """The used methods of `TensorReader`."""

    def __contains__(self, name: str) -> bool: ...
    def array(self, name: str) -> np.ndarray: ...
    def row(self, name: str, row: int) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Fitted:
    """A LoRA as it fits one checkpoint.

    changes: by network and by the layer's name in the checkpoint. misfits: layers as the file names
    them, each with the reason.
    """

    changes: Mapping[Network, Mapping[str, Change]]
    misfits: tuple[tuple[str, str], ...]

    @property
    def count(self) -> int:
        """The layers that fit."""
        return sum(len(layers) for layers in self.changes.values())

    @property
    def share(self) -> float:
        """The share of layers that fit."""
        return self.count / (self.count + len(self.misfits))

    @property
    def misfits_text(self) -> str:
        """The first misfits in words."""
        shown = [f"{layer} ({why})" for layer, why in self.misfits[:_SHOWN]]
        more = len(self.misfits) - _SHOWN
        return ", ".join(shown) + (f", and {more} more" if more > 0 else "")


def fit(changes: Sequence[Change], layouts: Mapping[Network, Layout]) -> Fitted:
    """Match the layers of a LoRA with those of a checkpoint.

    layouts: of UNet and text encoder, the latter without a prefix.
    """
    shapes = {
        network: {
            name.removesuffix(".weight"): shape
            for name, shape in layout.items()
            if name.endswith(".weight") and len(shape) > 1 and "embeddings" not in name
        }
        for network, layout in layouts.items()
    }
    flat = {
        network: {layer.replace(".", "_"): layer for layer in layers}
        for network, layers in shapes.items()
    }
    fitting: dict[Network, dict[str, Change]] = {network: {} for network in layouts}
    misfits = []
    for change in changes:
        layer = flat[change.network].get(change.layer, "") if change.flat else change.layer
        shape = shapes[change.network].get(layer)
        if why := _misfit(change, shape):
            misfits.append((f"{change.network} {change.layer}", why))
        else:
            fitting[change.network][layer] = change
    return Fitted(fitting, tuple(misfits))


def _misfit(change: Change, shape: tuple[int, ...] | None) -> str:
    """Return why a change does not fit a weight of this shape, or ''."""
    if shape is None:
        return "the checkpoint has no such layer"
    if change.unusual:
        return change.unusual
    outputs, inputs, *kernel = shape
    wanted = tuple(kernel) or (1, 1)
    down = (*change.down.shape[1:], *(() if change.down.ndim == 4 else (1, 1)))
    up = (change.up.shape[0], *(change.up.shape[2:] or (1, 1)))
    if (down, up) != ((inputs, *wanted), (outputs, 1, 1)):
        return (
            f"A {change.down.shape} and B {change.up.shape} change another shape than the "
            f"checkpoint's {shape}"
        )
    if change.magnitude is not None and _magnitude(change.magnitude, outputs) is None:
        return (
            f"its DoRA magnitude has shape {change.magnitude.shape}, expected one for each of "
            f"{outputs} outputs"
        )
    return ""


def _magnitude(stored: np.ndarray, outputs: int) -> np.ndarray | None:
    """Return a DoRA magnitude as float32 (outputs,), or None for another shape.

    peft writes (O,) and (1, O, 1, 1), LyCORIS (O, 1) and (O, 1, 1, 1).
    """
    rows = {(outputs,), (outputs, 1), (1, outputs, 1, 1), (outputs, 1, 1, 1)}
    return stored.astype(np.float32).reshape(-1) if stored.shape in rows else None


def fused(base: np.ndarray, changes: Sequence[tuple[Change, float]]) -> np.ndarray:
    """Return a weight with LoRAs in it, float32, of the shape of `base`.

    changes: those of its layer, each with the weight of its LoRA.
    """
    start = base.astype(np.float32)
    total = start.copy()
    for change, weight in changes:
        if not weight:
            continue
        rank = change.rank
        product = change.up.astype(np.float32).reshape(-1, rank) @ change.down.astype(
            np.float32
        ).reshape(rank, -1)
        product *= np.float32(weight * change.scaling)
        delta = product.reshape(base.shape)
        total += delta if change.magnitude is None else _dora(start, delta, change.magnitude)
    return total


def _dora(base: np.ndarray, delta: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """Return what DoRA adds to `base`: m V / |V| - W with V = W + delta, norms per output."""
    direction = base + delta
    norms = np.linalg.norm(direction.reshape(base.shape[0], -1), axis=1)
    factors = magnitude.astype(np.float32).reshape(-1) / np.maximum(norms, 1e-30)
    scaled: np.ndarray = direction * factors.reshape(-1, *[1] * (base.ndim - 1)) - base
    return scaled


class FusedReader:
    """Read the tensors of a weights file with LoRAs in them, as a `TensorReader`. Thread-safe.

    A changed tensor is float32; it is computed whenever it is read, and not kept.
    """

    def __init__(
        self, path: Path, changes: Mapping[str, Sequence[tuple[Change, float]]], prefix: str = ""
    ) -> None:
        """changes: by layer, see `fused`. prefix: of the names in the file."""
        self._file = TensorReader(path)
        self._changes = {
            f"{prefix}{layer}.weight": found
            for layer, found in changes.items()
            if any(weight for _, weight in found)
        }

    def __contains__(self, name: str) -> bool:
        return name in self._file

    @property
    def changed(self) -> frozenset[str]:
        """The names of the changed tensors."""
        return frozenset(self._changes)

    def array(self, name: str) -> np.ndarray:
        """Return a tensor in PyTorch's order. Raises WeightsError."""
        stored = self._file.array(name)
        return fused(stored, self._changes[name]) if name in self._changes else stored

    def stored_dtype(self, name: str) -> np.dtype:
        """Return the dtype of a tensor in its file; float32 for bfloat16."""
        return self._file.array(name).dtype

    def row(self, name: str, row: int) -> np.ndarray:
        """Return one row of a tensor."""
        return self.array(name)[row] if name in self._changes else self._file.row(name, row)
