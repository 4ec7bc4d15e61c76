"""Decompress the weights of an ML Program: the constexpr operations, in NumPy.

Formulas are those of the iOS 16 and iOS 18 operation sets. Weights that are both sparse and
quantised are not implemented.
"""

# mypy: disable-error-code="no-any-return"
# NumPy types arithmetic on arrays of any dtype as Any.

import math

import numpy as np

from .operations import Operations
from .package import unpack_bits


def affine_dequantize(
    quantized_data: np.ndarray, zero_point: np.ndarray, scale: np.ndarray, axis: np.ndarray
) -> np.ndarray:
    shape = [1] * quantized_data.ndim
    shape[int(axis)] = -1
    # a vector has one value per index of `axis`, a scalar applies to all
    offset, factor = (
        v.astype(np.float32).reshape(shape if v.ndim else ()) for v in (zero_point, scale)
    )
    return (quantized_data.astype(np.float32) - offset) * factor


def blockwise_shift_scale(
    data: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None
) -> np.ndarray:
    shifted = data.astype(np.float32)
    if offset is not None:
        shifted -= _spread(offset.astype(np.float32), data.shape)
    return shifted * _spread(scale, data.shape)


def lut_to_dense(
    indices: np.ndarray,
    lut: np.ndarray,
    shape: np.ndarray | None = None,
    vector_axis: np.ndarray | None = None,
) -> np.ndarray:
    """Look up a palette: iOS 16's packed bytes with a `shape`, or iOS 18's grouped tables."""
    if shape is not None:
        if vector_axis is not None or lut.ndim != 1:
            raise ValueError("shape together with vector_axis or a grouped table")
        sizes = tuple(int(size) for size in shape)
        return lut[unpack_bits(indices, int(math.log2(lut.size)), math.prod(sizes))].reshape(sizes)
    if lut.ndim != indices.ndim + 2:
        raise ValueError(
            f"a table of rank {lut.ndim} for indices of rank {indices.ndim}, expected rank "
            f"{indices.ndim + 2}"
        )
    # number of the table of each index, per axis
    group = [
        np.arange(n) // (n // tables) for n, tables in zip(indices.shape, lut.shape, strict=False)
    ]
    found = lut[(*np.ix_(*group), indices)]  # (*indices.shape, vector)
    if lut.shape[-1] == 1:
        return found[..., 0]
    if vector_axis is None:
        raise ValueError("a table of vectors without vector_axis")
    axis = int(vector_axis) % indices.ndim
    merged = list(indices.shape)
    merged[axis] *= lut.shape[-1]
    return np.moveaxis(found, -1, axis + 1).reshape(merged)


def sparse_to_dense(
    nonzero_data: np.ndarray, mask: np.ndarray, shape: np.ndarray | None = None
) -> np.ndarray:
    if shape is not None:  # iOS 16 packs the mask
        sizes = tuple(int(size) for size in shape)
        mask = unpack_bits(mask, 1, math.prod(sizes)).reshape(sizes)
    dense = np.zeros(mask.shape, nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


def constexpr_cast(source_val: np.ndarray, output_dtype: str) -> np.ndarray:
    if output_dtype != "fp32":
        raise ValueError(f"output_dtype {output_dtype!r}, expected 'fp32'")
    return source_val


def _spread(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, size in enumerate(shape):
        blocks = (
            blocks
            if blocks.shape[axis] == 1
            else np.repeat(blocks, size // blocks.shape[axis], axis)
        )
    return blocks


OPS: Operations = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": constexpr_cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
}
