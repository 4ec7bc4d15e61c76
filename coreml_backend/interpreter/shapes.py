"""Operations of an ML Program that reshape, select or resample arrays, in NumPy.

Parameters have the attribute names and defaults of the MIL operation sets iOS 15 to iOS 18.
"""

# mypy: disable-error-code="no-any-return"
# NumPy types arithmetic on arrays of any dtype as Any.

import numpy as np

from .operations import Operations


def reshape(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Reshape x; a 0 keeps the size of its axis, one -1 takes the remaining size."""
    sizes = [int(size) for size in shape]
    if 0 in sizes and len(sizes) != x.ndim:
        raise ValueError(f"shape {sizes} with a 0 for an input of rank {x.ndim}")
    return x.reshape([size or x.shape[axis] for axis, size in enumerate(sizes)])


def transpose(x: np.ndarray, perm: np.ndarray) -> np.ndarray:
    return x.transpose([int(axis) for axis in perm])


def expand_dims(x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


def squeeze(x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes))


def concat(
    values: list[np.ndarray], axis: np.ndarray, interleave: np.ndarray | bool = False
) -> np.ndarray:
    if not interleave:
        return np.concatenate(values, int(axis))
    at = int(axis) % values[0].ndim
    return np.stack(values, at + 1).reshape(
        [n * len(values) if i == at else n for i, n in enumerate(values[0].shape)]
    )


def stack(values: list[np.ndarray], axis: np.ndarray) -> np.ndarray:
    return np.stack(values, int(axis))


def split(
    x: np.ndarray,
    axis: np.ndarray,
    num_splits: np.ndarray | None = None,
    split_sizes: np.ndarray | None = None,
) -> list[np.ndarray]:
    if split_sizes is None:
        if num_splits is None:
            raise ValueError("neither num_splits nor split_sizes")
        return np.split(x, int(num_splits), int(axis))
    if split_sizes.sum() != x.shape[int(axis)] or (
        num_splits is not None and int(num_splits) != split_sizes.size
    ):
        raise ValueError(
            f"split_sizes {split_sizes.tolist()} for {x.shape[int(axis)]} along axis {int(axis)}"
        )
    return np.split(x, np.cumsum(split_sizes)[:-1], int(axis))


def slice_by_index(
    x: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    stride: np.ndarray | None = None,
    begin_mask: np.ndarray | None = None,
    end_mask: np.ndarray | None = None,
    squeeze_mask: np.ndarray | None = None,
) -> np.ndarray:
    """Return x[begin:end:stride] on every axis.

    begin_mask and end_mask ignore that bound; squeeze_mask takes one index and drops the axis.
    """
    steps = np.ones(x.ndim, np.int32) if stride is None else stride
    never = np.zeros(x.ndim, np.bool_)
    open_begin, open_end, single = (
        never if m is None else m for m in (begin_mask, end_mask, squeeze_mask)
    )
    index: list[int | slice] = []
    for axis in range(x.ndim):
        if single[axis]:
            index.append(0 if open_begin[axis] else int(begin[axis]))
            continue
        low = None if open_begin[axis] else int(begin[axis])
        index.append(slice(low, None if open_end[axis] else int(end[axis]), int(steps[axis])))
    return np.asarray(x[tuple(index)])


def slice_by_size(x: np.ndarray, begin: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return `size` elements from `begin` on every axis; -1 means all remaining ones."""
    low = [int(b) % n for b, n in zip(begin, x.shape, strict=True)]
    high = [n if s == -1 else b + int(s) for b, s, n in zip(low, size, x.shape, strict=True)]
    return x[tuple(slice(b, e) for b, e in zip(low, high, strict=True))]


def tile(x: np.ndarray, reps: np.ndarray) -> np.ndarray:
    return np.tile(x, [int(n) for n in reps])


def pad(
    x: np.ndarray, pad: np.ndarray, mode: str = "constant", constant_val: np.ndarray | float = 0.0
) -> np.ndarray:
    """Pad the last axes by pairs (before, after)."""
    pairs = [(int(before), int(after)) for before, after in pad.reshape(-1, 2)]
    widths = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    if mode == "constant":
        return np.pad(x, widths, constant_values=x.dtype.type(constant_val))
    if mode == "reflect":
        return np.pad(x, widths, mode="reflect")
    if mode == "replicate":
        return np.pad(x, widths, mode="edge")
    raise ValueError(f"mode {mode!r}, expected constant, reflect or replicate")


def gather(
    x: np.ndarray,
    indices: np.ndarray,
    axis: np.ndarray | int = 0,
    batch_dims: np.ndarray | int = 0,
    validate_indices: np.ndarray | bool = False,
) -> np.ndarray:
    """Take along one axis.

    Raises ValueError for an index out of range, with any validate_indices: iOS 17 leaves it
    undefined.
    """
    if batch_dims:
        raise ValueError(f"batch_dims {int(batch_dims)}, expected 0")
    if np.any(indices < 0) or np.any(indices >= x.shape[int(axis)]):
        raise ValueError(f"an index outside 0 to {x.shape[int(axis)] - 1}")
    return np.take(x, indices.astype(np.int64), int(axis))


def shape(x: np.ndarray) -> np.ndarray:
    return np.array(x.shape, np.int32)


def fill(shape: np.ndarray, value: np.ndarray | float = 0.0) -> np.ndarray:
    number = np.asarray(value)
    return np.full(
        [int(size) for size in shape],
        number,
        np.float32 if number.dtype.kind == "f" else number.dtype,
    )


def range_1d(end: np.ndarray, start: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def upsample_nearest_neighbor(
    x: np.ndarray,
    scale_factor_height: np.ndarray | int = 1,
    scale_factor_width: np.ndarray | int = 1,
) -> np.ndarray:
    return _repeat(x, float(scale_factor_height), float(scale_factor_width))


def resize_nearest_neighbor(
    x: np.ndarray, target_size_height: np.ndarray, target_size_width: np.ndarray
) -> np.ndarray:
    return _repeat(x, int(target_size_height) / x.shape[-2], int(target_size_width) / x.shape[-1])


def _repeat(x: np.ndarray, tall: float, wide: float) -> np.ndarray:
    # for other factors, nearest depends on an undocumented sampling grid of Core ML
    if not (tall.is_integer() and wide.is_integer() and tall >= 1 and wide >= 1):
        raise ValueError(f"scale factors {tall:g} x {wide:g}, expected whole numbers")
    return x.repeat(int(tall), -2).repeat(int(wide), -1)


def upsample_bilinear(
    x: np.ndarray,
    scale_factor_height: np.ndarray | int = 1,
    scale_factor_width: np.ndarray | int = 1,
    align_corners: np.ndarray | bool = True,
    half_pixel_centers: np.ndarray | bool | None = None,
) -> np.ndarray:
    if half_pixel_centers is not None and bool(half_pixel_centers) == bool(align_corners):
        raise ValueError("half_pixel_centers equal to align_corners, expected the opposite")
    sizes = int(x.shape[-2] * scale_factor_height), int(x.shape[-1] * scale_factor_width)
    return resize_bilinear(x, *sizes, "ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS")


def resize_bilinear(
    x: np.ndarray,
    target_size_height: np.ndarray | int = 1,
    target_size_width: np.ndarray | int = 1,
    sampling_mode: str = "DEFAULT",
) -> np.ndarray:
    for axis, size in ((-2, int(target_size_height)), (-1, int(target_size_width))):
        at = np.clip(_grid(x.shape[axis], size, sampling_mode), 0, x.shape[axis] - 1)
        low = np.floor(at).astype(np.int64)
        share = (at - low).astype(np.float32).reshape(-1, *[1] * (-axis - 1))
        x = (
            x.take(low, axis) * (1 - share)
            + x.take(np.minimum(low + 1, x.shape[axis] - 1), axis) * share
        )
    return x


def _grid(old: int, new: int, mode: str) -> np.ndarray:
    i = np.arange(new)
    if mode == "UNALIGN_CORNERS":
        return (i + 0.5) * old / new - 0.5
    if mode == "DEFAULT":
        return i * old / new
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS") and new > 1:
        return i * (old - 1) / (new - 1)
    raise ValueError(
        f"sampling_mode {mode!r} to {new} samples, expected DEFAULT, UNALIGN_CORNERS or "
        "ALIGN_CORNERS"
    )


OPS: Operations = {
    function.__name__: function
    for function in (
        concat,
        expand_dims,
        fill,
        gather,
        pad,
        range_1d,
        reshape,
        resize_bilinear,
        resize_nearest_neighbor,
        shape,
        slice_by_index,
        slice_by_size,
        split,
        squeeze,
        stack,
        tile,
        transpose,
        upsample_bilinear,
        upsample_nearest_neighbor,
    )
}
