"""Compress large tensors to int8 or a palette; Core ML decompresses them when it loads.

int8 has one scale per output channel, a palette one table per tensor. macOS 14 and 15 have
different operations for both. The tensor's `Store` sums the compression error.
"""

import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from .weights import Weights, half

# Smaller tensors stay float16: they save few bytes and lose most accuracy.
COMPRESSION_THRESHOLD = 10_000  # scalars
_KMEANS_ROUNDS = 30
_KMEANS_BINS = 1024


def stored(values: np.ndarray, weights: Weights) -> Var | np.ndarray:
    """Return the tensor for the program: a float16 array, or the operation that decompresses it."""
    store, rounded = weights.store, half(values, weights.name)
    if store.compression == "float16" or rounded.size <= COMPRESSION_THRESHOLD:
        return rounded
    if store.compression == "int8":
        var, rebuilt = _int8(values, store.blockwise)
    else:
        var, rebuilt = _palettized(
            rounded, int(store.compression.removeprefix("palettize")), store.blockwise
        )
    store.error += float(np.sum(np.square(rebuilt.astype(np.float32) - values), dtype=np.float64))
    store.energy += float(np.sum(np.square(values), dtype=np.float64))
    return var


def _int8(values: np.ndarray, blockwise: bool) -> tuple[Var, np.ndarray]:
    """Quantise symmetrically to int8, one scale per output channel."""
    peak = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    scale = np.maximum(peak / 127, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    levels = np.clip(np.round(values / scale.astype(np.float32)), -127, 127).astype(np.int8)
    rebuilt = levels.astype(np.float16) * scale
    if blockwise:
        return mb.constexpr_blockwise_shift_scale(data=levels, scale=scale), rebuilt
    # GPU and Neural Engine misread signed data in this operation (coremltools#2114, #2675). uint8
    # with zero point 128 holds the same values.
    unsigned = (levels.astype(np.int16) + 128).astype(np.uint8)
    return mb.constexpr_affine_dequantize(
        quantized_data=unsigned,
        zero_point=np.uint8(128),
        scale=scale.reshape(-1),
        axis=np.int32(0),
    ), rebuilt


def _palettized(values: np.ndarray, bits: int, blockwise: bool) -> tuple[Var, np.ndarray]:
    """Replace every scalar by an index into one table of 2 ** bits values."""
    table, indices = cluster(values, 2**bits)
    rebuilt = table[indices]
    if blockwise:
        subbyte = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
        lut = table.reshape(*[1] * values.ndim, -1, 1)
        return mb.constexpr_lut_to_dense(indices=indices.astype(subbyte), lut=lut), rebuilt
    flags = indices.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8) & 1
    # lowest bit first, across bytes
    packed = np.packbits(flags.astype(np.uint8), bitorder="little")
    return mb.constexpr_lut_to_dense(
        indices=packed, lut=table, shape=np.array(values.shape, np.uint32)
    ), rebuilt


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
