"""Convolutions whose gradient a CPU computes as matrix products.

MLX differentiates a convolution by a flipped one, which its CPU backend computes one value at a
time. On a GPU nothing here is used. Can go when MLX's CPU build has a fast path for flipped
kernels.
"""

import mlx.core as mx
import mlx.nn as nn

from ...mlx_sdxs.fast.ops import on_gpu


def _convolution(stride: int, padding: int):
    """Convolve with a gradient of products, for one stride and padding.

    x: NHWC, weight: (O, k, k, I).
    """

    @mx.custom_function
    def convolve(x: mx.array, weight: mx.array) -> mx.array:
        return mx.conv2d(x, weight, stride=stride, padding=padding)

    @convolve.vjp
    def gradient(
        primals: tuple[mx.array, mx.array], given: mx.array, output: mx.array
    ) -> tuple[mx.array, mx.array]:
        x, weight = primals
        side, (batch, rows, columns, channels) = weight.shape[1], given.shape
        wide = mx.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        flat = given.reshape(-1, channels).T  # (O, B h w)
        taps = [
            flat
            @ wide[
                :,
                a : a + stride * (rows - 1) + 1 : stride,
                b : b + stride * (columns - 1) + 1 : stride,
            ].reshape(-1, x.shape[-1])
            for a in range(side)
            for b in range(side)
        ]
        weight_gradient = mx.stack(taps, axis=1).reshape(weight.shape)
        if stride > 1:  # zeros between the rows and columns that the stride skipped
            spread = mx.zeros((batch, rows, stride, columns, stride, channels))
            spread[:, :, 0, :, 0] = given
            given = spread.reshape(batch, rows * stride, columns * stride, channels)[
                :, : x.shape[1], : x.shape[2]
            ]
        turned = weight[:, ::-1, ::-1].transpose(3, 1, 2, 0)  # (I, k, k, O)
        input_gradient = mx.conv2d(given, mx.contiguous(turned), padding=side - 1 - padding)
        return input_gradient[:, : x.shape[1], : x.shape[2]], weight_gradient

    return convolve


_KINDS = {
    (stride, padding): _convolution(stride, padding) for stride in (1, 2) for padding in (0, 1)
}


class TrainableConv2d(nn.Conv2d):
    """`nn.Conv2d` with that gradient; square kernels, stride 1 or 2, padding 0 or 1."""

    def __call__(self, x: mx.array) -> mx.array:
        y = _KINDS[self.stride[0], self.padding[0]](x, self.weight)
        return y + self.bias if "bias" in self else y


def prepare(module: nn.Module) -> None:
    """Give every convolution in `module` the device's best gradient; results stay the same."""
    if on_gpu():
        return
    for _, child in module.named_modules():
        if type(child) is nn.Conv2d:
            child.__class__ = TrainableConv2d
