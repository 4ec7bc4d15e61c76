"""3 x 3 convolutions on a CPU as few large products (Winograd's minimal filtering).

Lavin and Gray 2016 (arXiv:1509.09308) compute m outputs of an r-tap filter with m + r - 1 products.
Here both transforms are products too, so the BLAS does all the work. The forms:

    rows4    F(4, 3) along rows; half the multiplications, no copy of the map
    tiles4   F(4 x 4, 3 x 3); a quarter of the multiplications, gathers overlapping tiles
    tiles2   F(2 x 2, 3 x 3); four ninths of the multiplications, gathers overlapping tiles
    shifts   one product for all taps, then nine shifted sums; for few output channels
    windows  one product of gathered windows; for stride 2
    direct   MLX's own convolution

Large maps of few channels are computed in strips of rows that fit the cache. The best form depends
on the shape; `experiments/measure/conv_forms.py` measures it. A GPU uses none of this.
"""

import functools
from collections.abc import Callable
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from .ops import settle

Form = Literal["direct", "rows4", "tiles4", "tiles2", "shifts", "windows"]
_TAPS = 3
# Interpolation points besides infinity. 3/4 and 3/2 have a quarter of the rounding error of 1 and 2
# (3e-6 against 1.2e-5 of the largest value, 320 channels).
_POINTS = {4: (0.0, 0.75, -0.75, 1.5, -1.5), 2: (0.0, 1.0, -1.0)}
# Bytes of the map in one strip, and least number of strips that pays (docs/results/levers.json).
_STRIP_BYTES = 1 << 22
_STRIPS = 4


def minimal_filter(outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the matrices of F(m, 3): A^T (m, n), G (n, 3), B^T (n, n), float64, n = m + 2.

    outputs: m. y = A^T [(G g) * (B^T d)] is the correlation of n inputs d with 3 taps g (transposed
    Toom-Cook).
    """
    points = _POINTS[outputs]
    n = outputs + _TAPS - 1
    a, g, b = np.zeros((n, outputs)), np.zeros((n, _TAPS)), np.zeros((n, n))
    for i, point in enumerate(points):
        others = [p for p in points if p != point]
        a[i] = point ** np.arange(outputs)
        g[i] = point ** np.arange(_TAPS) / np.prod([point - p for p in others])
        b[i, : n - 1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = np.poly(points)[::-1]
    # powers of two scale the rows of B^T to about 1 without rounding
    scale = 2.0 ** np.round(np.log2(np.abs(b).sum(axis=1)))
    return a.T, g * scale[:, None], b / scale[:, None]


def best_form(height: int, width: int, inputs: int, outputs: int, stride: int = 1) -> Form:
    """Return the fastest measured form for a map of this shape (docs/results/conv-forms.json)."""
    if stride == 2:
        return strided_form(height, width)
    if outputs <= 4 and inputs >= 16:
        return "shifts"
    if min(inputs, outputs) < 16 or height % 4 or width % 4:
        return "direct"
    if min(inputs, outputs) >= 256:
        return "tiles4" if height * width >= 1024 else "tiles2"
    if min(inputs, outputs) >= 32 and 256 <= height * width <= 1024:
        return "tiles4"
    return "rows4" if height * width >= 1024 else "direct"


def strided_form(height: int, width: int) -> Form:
    """Return the fastest form for stride 2."""
    return "direct" if height % 2 or width % 2 else "windows"


class FoldedConv(nn.Module):
    """A 3 x 3 convolution of stride 1 or 2 and padding 1, with weights in the fastest form.

    The first map decides the form; later maps must have the same shape.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight  # (O, 3, 3, C), until the first call
        self.bias = conv.bias if "bias" in conv else None
        self._stride = conv.stride[0]
        self._form: Form | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """Map (B, H, W, C) to (B, H / stride, W / stride, O), with odd sides rounded up."""
        if self._form is None:
            outputs, _, _, inputs = self.weight.shape
            self._form = best_form(x.shape[1], x.shape[2], inputs, outputs, self._stride)
            self.weight = transform_weight(self.weight, self._form)
            mx.eval(self.weight)
        return settle(convolve(x, self.weight, self._form, self.bias, self._stride))


def fold_convolutions(model: nn.Module) -> None:
    """Replace every 3 x 3 convolution of stride 1 or 2 and padding 1 in `model`, in place."""
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    folded = [
        (name, FoldedConv(leaf))
        for name, leaf in leaves
        if isinstance(leaf, nn.Conv2d) and _fits(leaf)
    ]
    model.update_modules(tree_unflatten(folded))


def transform_weight(weight: mx.array, form: Form) -> mx.array:
    """Transform a weight (O, 3, 3, C) for `convolve` with `form`."""
    if form == "direct":
        return weight
    if form == "shifts":
        return mx.contiguous(weight.transpose(1, 2, 0, 3)).reshape(-1, weight.shape[-1])  # (9 O, C)
    if form == "windows":
        return mx.contiguous(weight.transpose(1, 2, 3, 0)).reshape(-1, weight.shape[0])  # (9 C, O)
    _, g, _ = minimal_filter(2 if form == "tiles2" else 4)
    taps = np.asarray(weight).astype(np.float64)
    if form == "rows4":
        # (3 columns, 6, C, O)
        return mx.array(np.einsum("vr,orjc->jvco", g, taps).astype(np.float32))
    both = np.einsum("vr,uj,orjc->vuco", g, g, taps, optimize=True)
    return mx.array(both.reshape(-1, *both.shape[2:]).astype(np.float32))  # (n * n, C, O)


def convolve(
    x: mx.array, weight: mx.array, form: Form, bias: mx.array | None = None, stride: int = 1
) -> mx.array:
    """Convolve (B, H, W, C), padding 1, with a weight from `transform_weight`; bias (O,).

    Raises ValueError if the form does not fit the stride ("windows" needs 2, "direct" takes any,
    the others need 1), or if "windows" gets an odd side.
    """
    _, height, width, _ = x.shape
    odd = form == "windows" and (height % 2 or width % 2)
    if odd or (form != "direct" and stride != (2 if form == "windows" else 1)):
        raise ValueError(
            f"form {form!r} cannot take a map of {height} x {width} with stride {stride}"
        )
    if form == "direct":
        y = mx.conv2d(x, weight, stride=stride, padding=1)
        return y if bias is None else y + bias
    done = [_convolve_one(picture, weight, form, bias) for picture in mx.split(x, x.shape[0])]
    return mx.concatenate(done) if len(done) > 1 else done[0]


def _convolve_one(x: mx.array, weight: mx.array, form: Form, bias: mx.array | None) -> mx.array:
    """Convolve one picture, (1, H, W, C), in strips of rows if it is large."""
    if form == "shifts":
        y = _shifts(x, weight)
        return y if bias is None else y + bias
    height, rows, strips = x.shape[1], _strip_rows(x, weight), []
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        first, last = max(start - 1, 0), min(stop + 1, height)
        padded = mx.pad(
            x[:, first:last], ((0, 0), (first - start + 1, stop + 1 - last), (1, 1), (0, 0))
        )
        y = _COMPUTE[form](padded, weight)
        strips.append(y if bias is None else y + bias)
        if rows < height:
            settle(strips[-1])
    return mx.concatenate(strips, axis=1) if len(strips) > 1 else strips[0]


def _strip_rows(x: mx.array, weight: mx.array) -> int:
    """Return the rows per strip; all rows unless the map is large and its weights are small."""
    height = x.shape[1]
    if x.nbytes < _STRIPS * _STRIP_BYTES or 2 * weight.nbytes > _STRIP_BYTES:
        return height
    return max(4, _STRIP_BYTES * height // x.nbytes // 4 * 4)


# One function per form, on a padded picture (1, H + 2, W + 2, C)


def _rows(padded: mx.array, weight: mx.array, m: int) -> mx.array:
    """Convolve by Winograd F(m, 3) along rows, one product for each column of the filter."""
    height, width, channels = _inner(padded)
    a, b = (mx.array(matrix) for matrix in _transforms(m, 1))
    row = (width + 2) * channels
    # rows m t .. m t + m + 1 of the padded picture, overlapping views: (H / m, m + 2, row)
    strips = mx.as_strided(padded, (height // m, m + 2, row), (m * row, row, 1))
    strips = (b @ strips).reshape(height // m, m + 2, width + 2, channels)
    y = strips[:, :, :width] @ weight[0]
    for column in (1, 2):
        y = mx.addmm(y, strips[:, :, column : column + width], weight[column])
    return (a @ y.reshape(height // m, m + 2, -1)).reshape(1, height, width, -1)


def _tiles(padded: mx.array, weight: mx.array, m: int) -> mx.array:
    """Convolve by Winograd F(m x m, 3 x 3): each transform is a product with a Kronecker square."""
    height, width, channels = _inner(padded)
    a, b = (mx.array(matrix) for matrix in _transforms(m, 2))
    n, down, across = m + 2, height // m, width // m
    row = (width + 2) * channels
    tiles = mx.as_strided(
        padded, (n, n, down, across, channels), (row, channels, m * row, m * channels, 1)
    )
    products = (b @ tiles.reshape(n * n, -1)).reshape(n * n, down * across, channels) @ weight
    y = (a @ products.reshape(n * n, -1)).reshape(m, m, down, across, -1)
    return y.transpose(2, 0, 3, 1, 4).reshape(1, height, width, -1)


def _windows(padded: mx.array, weight: mx.array) -> mx.array:
    """Convolve with stride 2: gather the nine pixels under the filter, then one product."""
    height, width, channels = _inner(padded)
    row = (width + 2) * channels
    windows = mx.as_strided(
        padded, (height // 2, width // 2, _TAPS, _TAPS * channels), (2 * row, 2 * channels, row, 1)
    )
    return (windows.reshape(-1, _TAPS * _TAPS * channels) @ weight).reshape(
        1, height // 2, width // 2, -1
    )


def _shifts(x: mx.array, weight: mx.array) -> mx.array:
    """Convolve to few channels: one product of all taps, then nine shifted sums.

    Takes an unpadded picture.
    """
    _, height, width, channels = x.shape
    planes = (weight @ x.reshape(-1, channels).T).reshape(_TAPS, _TAPS, -1, height, width)
    planes = mx.pad(planes, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
    taps = [
        planes[r, c, :, r : r + height, c : c + width] for r in range(_TAPS) for c in range(_TAPS)
    ]
    return sum(taps[1:], taps[0]).transpose(1, 2, 0)[None]


@functools.cache
def _transforms(m: int, directions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return A^T and B^T of F(m, 3), float32; their Kronecker squares for two directions."""
    a, _, b = minimal_filter(m)
    if directions == 2:
        a, b = np.kron(a, a), np.kron(b, b)
    return a.astype(np.float32), b.astype(np.float32)


def _inner(padded: mx.array) -> tuple[int, int, int]:
    """Return height and width without the padding, and the channels."""
    _, height, width, channels = padded.shape
    return height - 2, width - 2, channels


_COMPUTE: dict[Form, Callable[[mx.array, mx.array], mx.array]] = {
    "rows4": functools.partial(_rows, m=4),
    "tiles4": functools.partial(_tiles, m=4),
    "tiles2": functools.partial(_tiles, m=2),
    "windows": _windows,
}


def _fits(conv: nn.Conv2d) -> bool:
    return (
        conv.weight.shape[1:3] == (_TAPS, _TAPS)
        and conv.stride in ((1, 1), (2, 2))
        and conv.padding == (1, 1)
    )
