"""Compress large tensors to int8 or a palette, which a program decompresses when it is loaded.

int8 has one scale per output channel, a palette one table per tensor.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Compression = Literal["float16", "int8", "palettize8", "palettize6", "palettize4", "palettize2"]

# Smaller tensors stay as they are: they save few bytes and lose most accuracy.
COMPRESSION_THRESHOLD = 10_000  # scalars
_KMEANS_ROUNDS = 30
_KMEANS_BINS = 1024


@dataclass(frozen=True, slots=True)
class Compressed:
    """A compressed tensor.

    codes: int8 levels, or uint8 indices into `table`, of the shape of the tensor. scale: float16
    (O, 1, ...), one per output channel, with int8. table: float16 (2 ** bits,), ascending, with a
    palette. rebuilt: the tensor as the program sees it, float16.
    """

    codes: np.ndarray
    rebuilt: np.ndarray
    scale: np.ndarray | None = None
    table: np.ndarray | None = None

    @property
    def bits(self) -> int:
        """Return the bits of a code."""
        return 8 if self.table is None else len(self.table).bit_length() - 1


def compress(
    values: np.ndarray, rounded: np.ndarray, compression: Compression
) -> Compressed | None:
    """Compress a tensor; None if it stays as it is. values: float32. rounded: the same, float16."""
    if compression == "float16" or rounded.size <= COMPRESSION_THRESHOLD:
        return None
    if compression == "int8":
        return _int8(values)
    return _palettized(rounded, int(compression.removeprefix("palettize")))


def _int8(values: np.ndarray) -> Compressed:
    """Quantise symmetrically to int8, one scale per output channel."""
    peak = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    scale = np.maximum(peak / 127, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    levels = np.clip(np.round(values / scale.astype(np.float32)), -127, 127).astype(np.int8)
    return Compressed(levels, levels.astype(np.float16) * scale, scale=scale)


def _palettized(values: np.ndarray, bits: int) -> Compressed:
    """Replace every scalar by an index into one table of 2 ** bits values."""
    table, indices = cluster(values, 2**bits)
    return Compressed(indices, table[indices], table=table)


def cluster(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster float16 scalars by k-means.

    Returns the table, float16 (count,) ascending, and uint8 indices of the shape of `values`.
    Clusters the distinct values, at most 65,536, each weighted by its count.
    """
    codes = values.view(np.uint16)
    times = np.bincount(codes.reshape(-1), minlength=1 << 16)
    present = np.flatnonzero(times).astype(np.uint16)
    present = present[np.argsort(present.view(np.float16), kind="stable")]
    points, weights = present.view(np.float16).astype(np.float64), times[present].astype(np.float64)
    if len(points) <= count:
        centres = np.concatenate([points, np.full(count - len(points), points[-1])])
    else:
        centres = min(
            (_lloyd(points, weights, start) for start in _starts(points, weights, count)),
            key=lambda c: c[1],
        )[0]
    table = centres.astype(np.float16)
    lookup = np.zeros(1 << 16, np.uint8)
    lookup[present] = _nearest(table.astype(np.float64), points)
    return table, lookup[codes]


def _starts(points: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two initial sets of centres for `_lloyd`.

    The first has the optimal density, the cube root of the scalars' density (Panter and Dite 1951).
    The second has equal shares of the scalars, which is robust against outliers.
    """
    middles = (np.arange(count) + 0.5) / count
    density, edges = np.histogram(points, _KMEANS_BINS, weights=weights)
    share = np.concatenate([[0], np.cumsum(np.cbrt(density))])
    ranks = (np.cumsum(weights) - weights / 2) / weights.sum()
    return np.interp(middles, share / share[-1], edges), np.interp(middles, ranks, points)


def _lloyd(
    points: np.ndarray, weights: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, float]:
    """Refine centres by Lloyd's iteration; return them and the remaining squared error."""
    for _ in range(_KMEANS_ROUNDS):
        nearest = _nearest(centres, points)
        total = np.bincount(nearest, weights, len(centres))
        mean = np.bincount(nearest, weights * points, len(centres)) / np.maximum(total, 1)
        centres = np.where(total > 0, mean, centres)
    return centres, float(np.sum(weights * np.square(points - centres[_nearest(centres, points)])))


def _nearest(centres: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, points)
