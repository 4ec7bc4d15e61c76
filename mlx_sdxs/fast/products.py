"""Convolutions as products, for Metal: which form, a table says that the Mac measured.

    direct    MLX's own convolution, an implicit product that the matrix unit of an M5 has no
              kernel for
    unfold    gathers the nine pixels under the filter, then one product (im2col); of a 1 x 1
              convolution the product alone
    columns   gathers three pixels of a row, then three products, one for each row of the filter:
              a third of the memory, two more roundings of the sum

The sums of a product are of the dtype's own kind, so in float32 the forms agree to rounding, and in
float16 mac-check compares each with MLX's own. Winograd's forms (`conv.py`) are not among them: in
float16 they lose the bits that MLX_CONV_WINOGRAD=0 keeps.
"""

import warnings
from collections.abc import Callable
from importlib import metadata

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ...common.errors import SdxsWarning, WeightsError
from .conv_table import Maker, Table, mismatch, read_table, shape_key
from .ops import on_cuda, on_gpu

Choice = Callable[[str], str]


def on_metal() -> bool:
    """Tell whether MLX computes on Metal."""
    return on_gpu() and not on_cuda()


def maker() -> Maker:
    """Describe this machine and MLX, for a table."""
    return Maker.of(mx.device_info(), metadata.version("mlx"))


def valid_table() -> Table | None:
    """Return the table that this machine measured, if it still fits; warn of a damaged one."""
    try:
        table = read_table()
    except WeightsError as error:
        warnings.warn(f"mlx: {error}; convolutions are MLX's own", SdxsWarning, stacklevel=2)
        return None
    return table if table and not mismatch(table, maker()) else None


class ProductConv(nn.Module):
    """A convolution of 3 x 3, padding 1, or 1 x 1, in the form that is chosen for its map."""

    def __init__(self, conv: nn.Conv2d, choose: Choice) -> None:
        super().__init__()
        self.weight = conv.weight  # (O, k, k, C), in every form
        if "bias" in conv:
            self.bias = conv.bias
        self._stride = conv.stride[0]
        self._choose = choose

    def __call__(self, x: mx.array) -> mx.array:
        """Map (B, H, W, C) to (B, H / stride, W / stride, O), with odd sides rounded up."""
        dtype = str(x.dtype).rpartition(".")[2]
        form = self._choose(shape_key(x.shape, self.weight.shape, self._stride, dtype))
        bias = self.bias if "bias" in self else None
        return convolve(x, self.weight, form, bias, self._stride)


def use_products(model: nn.Module, choose: Choice) -> None:
    """Replace every convolution in `model` that a product can compute, in place."""
    leaves = tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module)
    made = [
        (name, ProductConv(leaf, choose))
        for name, leaf in leaves
        if isinstance(leaf, nn.Conv2d) and fits(leaf)
    ]
    model.update_modules(tree_unflatten(made))


def fits(conv: nn.Conv2d) -> bool:
    """Tell whether there are forms for this convolution."""
    kernel = tuple(conv.weight.shape[1:3])
    plain = conv.dilation in (1, (1, 1)) and conv.groups == 1
    if kernel == (1, 1):
        return plain and conv.stride == (1, 1) and conv.padding == (0, 0)
    strides = conv.stride in ((1, 1), (2, 2))
    return plain and kernel == (3, 3) and strides and conv.padding == (1, 1)


def convolve(
    x: mx.array, weight: mx.array, form: str, bias: mx.array | None = None, stride: int = 1
) -> mx.array:
    """Convolve (B, H, W, C) with a weight (O, k, k, C), k 1 or 3; padding k // 2.

    Raises ValueError for an unknown form, or "columns" of a 1 x 1 convolution.
    """
    outputs, kernel = weight.shape[:2]
    if form == "direct":
        y = mx.conv2d(x, weight, stride=stride, padding=kernel // 2)
        return y if bias is None else y + bias
    if form == "unfold":
        rows = x if kernel == 1 else _windows(x, stride)
        shape = (*rows.shape[:3], outputs)
        return _product(rows, weight.reshape(outputs, -1), bias).reshape(shape)
    if form == "columns" and kernel == 3:
        return _columns(x, weight, bias, stride)
    raise ValueError(f"form {form!r} cannot compute a {kernel} x {kernel} convolution")


def _product(rows: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """Multiply the pixels (..., K) by a weight (O, K)."""
    rows = rows.reshape(-1, weight.shape[1])
    return rows @ weight.T if bias is None else mx.addmm(bias, rows, weight.T)


def _windows(x: mx.array, stride: int) -> mx.array:
    """Gather the nine pixels under the filter: (B, H', W', 9 C)."""
    batch, height, width, channels = x.shape
    padded = mx.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    row = (width + 2) * channels
    down, across = (height - 1) // stride + 1, (width - 1) // stride + 1
    windows = mx.as_strided(
        padded,
        (batch, down, across, 3, 3 * channels),
        ((height + 2) * row, stride * row, stride * channels, row, 1),
    )
    return windows.reshape(batch, down, across, 9 * channels)


def _columns(x: mx.array, weight: mx.array, bias: mx.array | None, stride: int) -> mx.array:
    """Gather three pixels of each row once, then multiply by each row of the filter."""
    batch, height, width, channels = x.shape
    outputs = weight.shape[0]
    padded = mx.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    row = (width + 2) * channels
    down, across = (height - 1) // stride + 1, (width - 1) // stride + 1
    gathered = mx.contiguous(
        mx.as_strided(
            padded,
            (batch, height + 2, across, 3 * channels),
            ((height + 2) * row, row, stride * channels, 1),
        )
    )
    y: mx.array | None = bias
    for tap in range(3):
        rows = gathered[:, tap : tap + stride * (down - 1) + 1 : stride]
        y = _product(rows, weight[:, tap].reshape(outputs, -1), y)
    assert y is not None
    return y.reshape(batch, down, across, outputs)
