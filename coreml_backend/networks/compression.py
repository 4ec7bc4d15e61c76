"""Fewer bytes for large tensors: computed here, undone by Core ML when it loads the program.

int8 has a scale for each output channel, a palette one table for the whole tensor. macOS 14 and 15
spell both in different operations. What it costs is summed up in the `Store` that the tensor came
from.
"""

import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types

from .weights import Weights, half

COMPRESSION_THRESHOLD = (
    10_000  # tensors with fewer scalars stay float16: they weigh nothing and cost most
)
_KMEANS_ROUNDS = 30
_KMEANS_BINS = 1024


def stored(values: np.ndarray, weights: Weights) -> Var | np.ndarray:
    """The tensor as the program stores it: a float16 array, or the operation that rebuilds one."""
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
    """Symmetric, one scale for each output channel."""
    peak = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
    scale = np.maximum(peak / 127, np.finfo(np.float16).smallest_subnormal).astype(np.float16)
    levels = np.clip(np.round(values / scale.astype(np.float32)), -127, 127).astype(np.int8)
    rebuilt = levels.astype(np.float16) * scale
    if blockwise:
        return mb.constexpr_blockwise_shift_scale(data=levels, scale=scale), rebuilt
    # Signed data in this operation is misread by GPU and Neural Engine (coremltools#2114, #2675);
    # uint8 around 128 holds the same values.
    unsigned = (levels.astype(np.int16) + 128).astype(np.uint8)
    return mb.constexpr_affine_dequantize(
        quantized_data=unsigned,
        zero_point=np.uint8(128),
        scale=scale.reshape(-1),
        axis=np.int32(0),
    ), rebuilt


def _palettized(values: np.ndarray, bits: int, blockwise: bool) -> tuple[Var, np.ndarray]:
    """Every scalar becomes an index into one table of 2 ** bits values."""
    table, indices = cluster(values, 2**bits)
    rebuilt = table[indices]
    if blockwise:
        subbyte = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
        lut = table.reshape(*[1] * values.ndim, -1, 1)
        return mb.constexpr_lut_to_dense(indices=indices.astype(subbyte), lut=lut), rebuilt
    flags = indices.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8) & 1
    packed = np.packbits(
        flags.astype(np.uint8), bitorder="little"
    )  # lowest bit first, across bytes
    return mb.constexpr_lut_to_dense(
        indices=packed, lut=table, shape=np.array(values.shape, np.uint32)
    ), rebuilt


def cluster(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """k-means of float16 scalars: the table, float16 (count,) ascending, and uint8 indices shaped
    like `values`.

    Works on the at most 65,536 distinct float16 values, weighted by how often each occurs.
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
    """Two guesses at the centres: the best density is the cube root of the scalars' own (Panter
    and Dite 1951), and equal shares of the scalars, which an outlier cannot mislead.
    """
    middles = (np.arange(count) + 0.5) / count
    density, edges = np.histogram(points, _KMEANS_BINS, weights=weights)
    share = np.concatenate([[0], np.cumsum(np.cbrt(density))])
    ranks = (np.cumsum(weights) - weights / 2) / weights.sum()
    return np.interp(middles, share / share[-1], edges), np.interp(middles, ranks, points)


def _lloyd(
    points: np.ndarray, weights: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, float]:
    """Refine: nearest centre, then the mean, again and again. Returns the centres and the squared
    error left.
    """
    for _ in range(_KMEANS_ROUNDS):
        nearest = _nearest(centres, points)
        total = np.bincount(nearest, weights, len(centres))
        mean = np.bincount(nearest, weights * points, len(centres)) / np.maximum(total, 1)
        centres = np.where(total > 0, mean, centres)
    return centres, float(np.sum(weights * np.square(points - centres[_nearest(centres, points)])))


def _nearest(centres: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, points)
