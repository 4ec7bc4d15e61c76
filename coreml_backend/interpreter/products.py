"""Convolutions, matrix products and attention of an ML Program, in NumPy.

Products use NumPy's BLAS in float32. Attribute names and formulas are those of the MIL operation
sets iOS 15 to iOS 18. Convolution works on bands of rows and attention on blocks of queries, so a
512-pixel frame needs a few hundred MB of scratch memory.
"""

# mypy: disable-error-code="no-any-return"
# NumPy types arithmetic on arrays of any dtype as Any.

import math
from collections.abc import Sequence

import numpy as np

from .operations import Operations

SCRATCH = 1 << 24  # numbers of one patch matrix or score matrix: 64 MiB


def conv(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    strides: np.ndarray | None = None,
    pad_type: str = "valid",
    pad: np.ndarray | None = None,
    dilations: np.ndarray | None = None,
    groups: np.ndarray | int = 1,
) -> np.ndarray:
    """Correlate x (N, C, *spatial) with weight (O, C/groups, *kernel) over 1 to 3 axes."""
    kernel, groups = weight.shape[2:], int(groups)
    steps, gaps = _per_axis(strides, kernel), _per_axis(dilations, kernel)
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(f"input {x.shape} and weight {weight.shape} do not fit {groups} groups")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, gaps, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *_padding(pad_type, pad, x.shape[2:], reach, steps)])
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, x.ndim)))
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in (*steps, *gaps)))]
    out = np.empty((x.shape[0], weight.shape[0], *windows.shape[2 : x.ndim]), np.float32)
    for n in range(x.shape[0]):
        pictures = np.split(windows[n], groups)
        for part, filters, picture in zip(
            np.split(out[n], groups), np.split(weight, groups), pictures, strict=True
        ):
            _correlate(picture, filters, part)
    if bias is not None:
        out += bias.reshape(-1, *[1] * len(kernel))
    return out


def _correlate(windows: np.ndarray, filters: np.ndarray, out: np.ndarray) -> None:
    # windows (C, *out, *kernel), filters (O, C, *kernel), out (O, *out)
    axes = out.ndim - 1
    flat = filters.reshape(filters.shape[0], -1)
    band = max(1, SCRATCH // (flat.shape[1] * math.prod(out.shape[2:])))
    order = (0, *range(1 + axes, 1 + 2 * axes), *range(1, 1 + axes))
    for start in range(0, out.shape[1], band):
        patches = windows[:, start : start + band].transpose(order)
        part = out[:, start : start + band]
        part[...] = (flat @ patches.reshape(flat.shape[1], -1)).reshape(part.shape)


def _per_axis(given: np.ndarray | None, kernel: tuple[int, ...]) -> tuple[int, ...]:
    values = (1,) * len(kernel) if given is None else tuple(int(v) for v in given)
    if len(values) != len(kernel) or min(values) < 1:
        raise ValueError(f"strides or dilations {values} for {len(kernel)} spatial axes")
    return values


def _padding(
    kind: str,
    pad: np.ndarray | None,
    spatial: tuple[int, ...],
    reach: Sequence[int],
    steps: Sequence[int],
) -> list[tuple[int, int]]:
    if kind == "valid":
        return [(0, 0)] * len(spatial)
    if kind == "custom" and pad is not None and pad.size == 2 * len(spatial):
        return [(int(before), int(after)) for before, after in pad.reshape(-1, 2)]
    if kind not in ("same", "same_lower"):
        raise ValueError(f"pad_type {kind!r} with pad {pad}")
    # ceil(size / step) outputs, as in TensorFlow and in coremltools' shape inference
    totals = [
        max(0, (math.ceil(n / s) - 1) * s + k - n)
        for n, s, k in zip(spatial, steps, reach, strict=True)
    ]
    pairs = [(total // 2, total - total // 2) for total in totals]
    return pairs if kind == "same" else [(after, before) for before, after in pairs]


def conv_transpose(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    strides: np.ndarray | None = None,
    pad_type: str = "valid",
    pad: np.ndarray | None = None,
    dilations: np.ndarray | None = None,
    groups: np.ndarray | int = 1,
    output_shape: np.ndarray | None = None,
) -> np.ndarray:
    """Apply a transposed convolution to x (N, C, *spatial); pad crops the result.

    weight: (C, O/groups, *kernel).
    """
    kernel, groups = weight.shape[2:], int(groups)
    steps, gaps = _per_axis(strides, kernel), _per_axis(dilations, kernel)
    if pad_type not in ("valid", "custom"):
        raise ValueError(f"pad_type {pad_type!r}, expected 'valid' or 'custom'")
    geometry = list(zip(x.shape[2:], kernel, steps, gaps, strict=True))
    full = [(n - 1) * s + (k - 1) * d + 1 for n, k, s, d in geometry]
    out = np.zeros((x.shape[0], weight.shape[1] * groups, *full), np.float32)
    columns = x.reshape(x.shape[0], groups, -1, math.prod(x.shape[2:]))
    for tap in np.ndindex(*kernel):
        filters = weight[(slice(None), slice(None), *tap)].reshape(groups, -1, weight.shape[1])
        placed = filters.swapaxes(1, 2) @ columns  # (N, groups, O/groups, pixels)
        at = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, (n, _, s, d) in zip(tap, geometry, strict=True)
        )
        out[(slice(None), slice(None), *at)] += placed.reshape(x.shape[0], -1, *x.shape[2:])
    crops = _padding(pad_type, pad, x.shape[2:], kernel, steps)
    kept = [slice(before, size - after) for size, (before, after) in zip(full, crops, strict=True)]
    out = out[(slice(None), slice(None), *kept)]
    if output_shape is not None and tuple(output_shape) != out.shape:
        raise ValueError(f"output_shape {tuple(output_shape)}, expected {out.shape}")
    return out if bias is None else out + bias.reshape(-1, *[1] * len(kernel))


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    product = x @ weight.T
    return product if bias is None else product + bias


def matmul(
    x: np.ndarray,
    y: np.ndarray,
    transpose_x: np.ndarray | bool = False,
    transpose_y: np.ndarray | bool = False,
) -> np.ndarray:
    left = x.swapaxes(-1, -2) if transpose_x and x.ndim > 1 else x
    right = y.swapaxes(-1, -2) if transpose_y and y.ndim > 1 else y
    return np.asarray(left @ right)


def einsum(values: list[np.ndarray], equation: str) -> np.ndarray:
    """Multiply (..., C, H, W) by (..., W, H, U) for every H: the only product of MIL's einsum."""
    left, right = values
    letters: dict[str, str] = {}
    pattern = "".join(
        c if c in ",->" else letters.setdefault(c, "abcdefghij"[len(letters)])
        for c in equation.replace(" ", "")
    )
    if pattern not in ("abcd,adce->abce", "abc,cbd->abd") or left.ndim != right.ndim:
        raise ValueError(f"equation {equation!r}, expected 'nchw,nwhu->nchu' or 'chw,whr->chr'")
    return (left.swapaxes(-3, -2) @ right.swapaxes(-3, -2)).swapaxes(-3, -2)


def scaled_dot_product_attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, attn_mask: np.ndarray | None = None
) -> np.ndarray:
    """Return softmax(q k^T / sqrt(E) + mask) v over (*batch, L, E).

    A boolean mask selects the keys; a float mask is added.
    """
    batch, length, source = query.shape[:-2], query.shape[-2], key.shape[-2]
    if key.shape[:-2] != batch or value.shape[:-2] != batch:
        raise ValueError(
            f"batches {batch}, {key.shape[:-2]} and {value.shape[:-2]} of query, key and value "
            "differ"
        )
    out = np.empty((*batch, length, value.shape[-1]), np.float32)
    bias = None
    if attn_mask is not None:
        bias = (
            np.where(attn_mask, np.float32(0), np.float32(-np.inf))
            if attn_mask.dtype == np.bool_
            else attn_mask
        )
        bias = np.broadcast_to(bias, (*batch, length, source))
    rows = max(1, SCRATCH // source)
    for at in np.ndindex(*batch):
        for start in range(0, length, rows):
            block = slice(start, start + rows)
            scores = query[at][block] @ key[at].T / np.float32(math.sqrt(query.shape[-1]))
            scores = scores if bias is None else scores + bias[at][block]
            out[at][block] = softmax(scores) @ value[at]
    return out


def largest_score(query: np.ndarray, key: np.ndarray) -> float:
    """Return max |q k^T| of an attention over (*batch, L, E), before it is scaled."""
    rows, largest = max(1, SCRATCH // key.shape[-2]), 0.0
    for at in np.ndindex(*query.shape[:-2]):
        for start in range(0, query.shape[-2], rows):
            scores = query[at][start : start + rows] @ key[at].T
            largest = max(largest, float(scores.max()), -float(scores.min()))
    return largest


def softmax(x: np.ndarray, axis: np.ndarray | int = -1) -> np.ndarray:
    powers = x - x.max(axis=int(axis), keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=int(axis), keepdims=True)
    return powers


OPS: Operations = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "einsum": einsum,
    "linear": linear,
    "matmul": matmul,
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "softmax": softmax,
}
