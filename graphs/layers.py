"""Layers shared by the UNet and the full VAE: the twin of `mlx_sdxs/networks/layers.py`."""

import numpy as np

from .ops import Ops, Tensor
from .weights import Weights


class Resnet:
    """ResnetBlock2D of diffusers; the time projection is folded into the bias of conv1."""

    def __init__(self, ops: Ops, weights: Weights, groups: int, eps: float) -> None:
        self.ops = ops
        self.weights = weights
        self.groups = groups
        self.eps = eps

    def __call__(self, x: Tensor, time: np.ndarray | None = None) -> Tensor:
        """Map x (1, inputs, H, W) to (1, outputs, H, W).

        time: silu of the time embedding, float32 (time_embed_dim,).
        """
        ops, w, bias = self.ops, self.weights, self.weights["conv1"].bias()
        if time is not None:
            project = w["time_emb_proj"]
            bias = bias + project.float32("weight") @ time + project.bias()
        h = ops.silu(ops.group_norm(x, w["norm1"], self.groups, self.eps))
        h = ops.conv(h, w["conv1"], bias=bias)
        h = ops.silu(ops.group_norm(h, w["norm2"], self.groups, self.eps))
        h = ops.conv(h, w["conv2"])
        return ops.add(h, ops.conv(x, w["conv_shortcut"]) if "conv_shortcut.weight" in w else x)


class Downsample:
    """Stride-2 convolution, padded on all sides (UNet) or at bottom and right only (VAE)."""

    def __init__(self, ops: Ops, weights: Weights, symmetric: bool = True) -> None:
        self.ops = ops
        self.weights = weights
        self.pad = (1, 1, 1, 1) if symmetric else (0, 1, 0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return self.ops.conv(x, self.weights["conv"], stride=2, pad=self.pad)


class Upsample:
    """Nearest-neighbour upsampling by two, then a convolution."""

    def __init__(self, ops: Ops, weights: Weights) -> None:
        self.ops = ops
        self.weights = weights

    def __call__(self, x: Tensor) -> Tensor:
        return self.ops.conv(self.ops.upsample(x), self.weights["conv"])
