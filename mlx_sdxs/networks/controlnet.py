"""ControlNetModel, as in diffusers: a copy of a UNet's down path that reads edges.

Runs SDXS-512-DreamShaper-sketch (skip residuals of 320, 320, 320, 640, 640 and 1280 channels, one
for the middle) and plain SD 1.5 ControlNets. The attribute tree equals the checkpoint's keys.
Arrays are NHWC. Edges are white lines on black in [0, 1]; the demo of SDXS inverts its black
drawing on white (255 - image) first.
"""

import itertools
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ...common.checkpoint.config.controlnet import ControlNetConfig
from ...common.checkpoint.layout import skip_channels
from ..fast.ops import silu
from .unet import DownBlock, EncoderHiddenStates, MidBlock, TimestepEmbedding


class Residuals(NamedTuple):
    """The residuals of a ControlNet: one per skip of the down path, one for the middle."""

    skips: list[mx.array]
    middle: mx.array


class ConditioningEmbedding(nn.Module):
    """Embed edges (B, 8h, 8w, 3) in [0, 1] as (B, h, w, channels) by strided convolutions."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        widths = config.embedding
        self.conv_in = nn.Conv2d(config.conditioning_channels, widths[0], 3, padding=1)
        self.blocks = []
        for width, wider in itertools.pairwise(widths):
            self.blocks += [
                nn.Conv2d(width, width, 3, padding=1),
                nn.Conv2d(width, wider, 3, stride=2, padding=1),
            ]
        self.conv_out = nn.Conv2d(widths[-1], config.unet.block_out_channels[0], 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        x = silu(self.conv_in(x))
        for block in self.blocks:
            x = silu(block(x))
        return self.conv_out(x)


class ControlNetModel(nn.Module):
    """Predict the residuals that make a UNet follow edges."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        unet = config.unet
        channels = unet.block_out_channels
        self._bgr = config.bgr
        self.conv_in = nn.Conv2d(unet.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(unet)
        self.controlnet_cond_embedding = ConditioningEmbedding(config)
        self.down_blocks = [DownBlock(unet, i) for i in range(len(channels))]
        if unet.mid_block:
            self.mid_block = MidBlock(unet)
        self.controlnet_down_blocks = [nn.Conv2d(width, width, 1) for width in skip_channels(unet)]
        self.controlnet_mid_block = nn.Conv2d(channels[-1], channels[-1], 1)

    def __call__(
        self,
        sample: mx.array,
        timestep: float | None,
        encoder_hidden_states: EncoderHiddenStates,
        edges: mx.array,
        scale: mx.array,
    ) -> Residuals:
        """Return the residuals for `UNet2DConditionModel.features` with the same arguments.

        sample: (B, h, w, C). timestep: None after `fold.fold`. edges: (B, 8h, 8w, 3) RGB in [0, 1],
        white on black. scale: the control scale, float32 scalar.
        """
        time = None if timestep is None else silu(self.time_embedding(timestep, sample.dtype))
        x = self.conv_in(sample) + self.controlnet_cond_embedding(
            edges[..., ::-1] if self._bgr else edges
        )
        skips = [x]
        for down in self.down_blocks:
            x, pushed = down(x, time, encoder_hidden_states)
            skips += pushed
        if "mid_block" in self:
            x = self.mid_block(x, time, encoder_hidden_states)
        scale = scale.astype(sample.dtype)
        residuals = [
            conv(skip) * scale
            for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True)
        ]
        return Residuals(residuals, self.controlnet_mid_block(x) * scale)
