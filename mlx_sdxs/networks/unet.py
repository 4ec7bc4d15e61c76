"""UNet2DConditionModel, as in diffusers, for SDXS-512, DreamShaper, SD-Turbo, tiny-sd, small-sd.

The attribute tree equals the checkpoint's keys, so weights load strictly and without renames.
Arrays are NHWC. Options that these checkpoints do not use are absent; `UNetConfig` rejects them.
"""

import math
from collections.abc import Iterator
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn

from ...common.checkpoint.config.unet import UNetConfig
from ...common.checkpoint.layout import up_resnet_channels
from ..fast.ops import attention, gelu, silu
from .layers import Downsample, GroupNorm, Resnet, Upsample

# (B, N, D), or precomputed keys and values of every cross-attention in order
EncoderHiddenStates: TypeAlias = mx.array | Iterator[tuple[mx.array, mx.array]]
TRANSFORMER_NORM_EPS = 1e-6  # of Transformer2DModel; every other GroupNorm uses norm_eps


class TimestepEmbedding(nn.Module):
    """Sinusoidal features of the timestep, then two linears."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self._channels = config.block_out_channels[0]
        self._flip_sin_to_cos = config.flip_sin_to_cos
        self._freq_shift = config.freq_shift
        self.linear_1 = nn.Linear(self._channels, config.time_embed_dim)
        self.linear_2 = nn.Linear(config.time_embed_dim, config.time_embed_dim)

    def __call__(self, timestep: float, dtype: mx.Dtype) -> mx.array:
        half = self._channels // 2
        frequencies = mx.exp(
            -math.log(10000) * mx.arange(half, dtype=mx.float32) / (half - self._freq_shift)
        )
        angles = timestep * frequencies[None]
        waves = (
            (mx.cos(angles), mx.sin(angles))
            if self._flip_sin_to_cos
            else (mx.sin(angles), mx.cos(angles))
        )
        features = mx.concatenate(waves, axis=-1).astype(dtype)  # (1, channels)
        return self.linear_2(silu(self.linear_1(features)))


class Attention(nn.Module):
    """Multi-head attention from x to encoder_hidden_states; to x itself in self-attention."""

    def __init__(self, channels: int, cross_dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(cross_dim, channels, bias=False)
        self.to_v = nn.Linear(cross_dim, channels, bias=False)
        self.to_out = [nn.Linear(channels, channels)]

    def __call__(self, x: mx.array, encoder_hidden_states: EncoderHiddenStates) -> mx.array:
        batch, tokens, channels = x.shape
        if "to_qkv" in self:
            q, k, v = (self._split(part) for part in mx.split(self.to_qkv(x), 3, axis=-1))
        else:
            k, v = (
                self.keys_and_values(encoder_hidden_states)
                if isinstance(encoder_hidden_states, mx.array)
                else next(encoder_hidden_states)
            )
            # a batch has one prompt, so the queries of all its pictures form one row
            q = self._split(self.to_q(x).reshape(k.shape[0], -1, channels))
        y = attention(q, k, v)  # (B, heads, tokens, head_dim)
        return self.to_out[0](y.transpose(0, 2, 1, 3).reshape(batch, tokens, channels))

    def keys_and_values(self, encoder_hidden_states: mx.array) -> tuple[mx.array, mx.array]:
        """Project (B, N, cross_dim) to keys and values, (B, heads, N, head_dim) each."""
        return (
            self._split(self.to_k(encoder_hidden_states)),
            self._split(self.to_v(encoder_hidden_states)),
        )

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self._heads, -1).transpose(0, 2, 1, 3)


class GEGLU(nn.Module):
    """One linear to twice the width; the exact GELU of its second half gates the first half."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * outputs)

    def __call__(self, x: mx.array) -> mx.array:
        hidden, gate = mx.split(self.proj(x), 2, axis=-1)
        return hidden * gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = [GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.net:
            x = layer(x)
        return x


class BasicTransformerBlock(nn.Module):
    def __init__(self, channels: int, heads: int, cross_dim: int, only_cross: bool) -> None:
        super().__init__()
        self.only_cross = only_cross
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, cross_dim if only_cross else channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, cross_dim, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def __call__(self, x: mx.array, encoder_hidden_states: EncoderHiddenStates) -> mx.array:
        h = self.norm1(x)
        x = x + self.attn1(h, encoder_hidden_states if self.only_cross else h)
        x = x + self.attn2(self.norm2(x), encoder_hidden_states)
        return x + self.ff(self.norm3(x))


class Transformer2DModel(nn.Module):
    """Transformer blocks over all positions of a feature map, (B, H, W, C) in and out."""

    def __init__(self, config: UNetConfig, block: int, only_cross: bool) -> None:
        super().__init__()
        channels, heads = config.block_out_channels[block], config.heads[block]
        self._linear = config.use_linear_projection
        self.norm = GroupNorm(config.norm_num_groups, channels, TRANSFORMER_NORM_EPS)
        self.proj_in = (
            nn.Linear(channels, channels) if self._linear else nn.Conv2d(channels, channels, 1)
        )
        self.transformer_blocks = [
            BasicTransformerBlock(channels, heads, config.cross_attention_dim, only_cross)
            for _ in range(config.transformer_layers_per_block[block])
        ]
        self.proj_out = (
            nn.Linear(channels, channels) if self._linear else nn.Conv2d(channels, channels, 1)
        )

    def __call__(self, x: mx.array, encoder_hidden_states: EncoderHiddenStates) -> mx.array:
        batch, height, width, channels = x.shape
        h = self.proj_in(self.norm(x)).reshape(batch, height * width, channels)
        for block in self.transformer_blocks:
            h = block(h, encoder_hidden_states)
        return x + self.proj_out(h.reshape(x.shape))


class DownBlock(nn.Module):
    """DownBlock2D or CrossAttnDownBlock2D of diffusers."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels, layers = config.block_out_channels, config.layers_per_block[level]
        self.resnets = [
            Resnet(
                channels[level - 1 if level and j == 0 else level],
                channels[level],
                config.norm_num_groups,
                config.norm_eps,
                config.time_embed_dim,
            )
            for j in range(layers)
        ]
        if config.down_block_types[level] == "CrossAttnDownBlock2D":
            only_cross = config.only_cross_attention[level]
            self.attentions = [Transformer2DModel(config, level, only_cross) for _ in range(layers)]
        if level < len(channels) - 1:
            self.downsamplers = [Downsample(channels[level])]

    def __call__(
        self, x: mx.array, time: mx.array | None, encoder_hidden_states: EncoderHiddenStates
    ) -> tuple[mx.array, list[mx.array]]:
        skips = []
        for j, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if "attentions" in self:
                x = self.attentions[j](x, encoder_hidden_states)
            skips.append(x)
        if "downsamplers" in self:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(nn.Module):
    """UNetMidBlock2DCrossAttn: resnet, attention, resnet at the lowest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels, last = config.block_out_channels[-1], len(config.block_out_channels) - 1
        self.resnets = [
            Resnet(
                channels, channels, config.norm_num_groups, config.norm_eps, config.time_embed_dim
            )
            for _ in range(2)
        ]
        self.attentions = [Transformer2DModel(config, last, only_cross=False)]

    def __call__(
        self, x: mx.array, time: mx.array | None, encoder_hidden_states: EncoderHiddenStates
    ) -> mx.array:
        x = self.attentions[0](self.resnets[0](x, time), encoder_hidden_states)
        return self.resnets[1](x, time)


class UpBlock(nn.Module):
    """UpBlock2D or CrossAttnUpBlock2D of diffusers; pops its skips from the end of the list."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        last = len(config.block_out_channels) - 1
        shapes = up_resnet_channels(config, level)
        self.resnets = [
            Resnet(
                hidden + skip,
                outputs,
                config.norm_num_groups,
                config.norm_eps,
                config.time_embed_dim,
            )
            for hidden, skip, outputs in shapes
        ]
        if config.up_block_types[level] == "CrossAttnUpBlock2D":
            only_cross = config.only_cross_attention[last - level]
            self.attentions = [Transformer2DModel(config, last - level, only_cross) for _ in shapes]
        if level < last:
            self.upsamplers = [Upsample(shapes[-1][2])]

    def __call__(
        self,
        x: mx.array,
        time: mx.array | None,
        encoder_hidden_states: EncoderHiddenStates,
        skips: list[mx.array],
    ) -> mx.array:
        for j, resnet in enumerate(self.resnets):
            x = resnet(mx.concatenate([x, skips.pop()], axis=-1), time)
            if "attentions" in self:
                x = self.attentions[j](x, encoder_hidden_states)
        return self.upsamplers[0](x) if "upsamplers" in self else x


class UNet2DConditionModel(nn.Module):
    """Predict eps, the noise in `sample`, given encoder_hidden_states."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(config)
        self.down_blocks = [DownBlock(config, i) for i in range(len(channels))]
        if config.mid_block:
            self.mid_block = MidBlock(config)
        self.up_blocks = [UpBlock(config, i) for i in range(len(channels))]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[0], config.norm_eps)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def __call__(
        self, sample: mx.array, timestep: float, encoder_hidden_states: mx.array
    ) -> mx.array:
        """Return eps, of the shape and dtype of `sample` (B, H, W, C).

        encoder_hidden_states: (B, 77, D) of the same dtype, or (1, 77, D) for a batch. H and W are
        multiples of the UNet's reduction (4 or 8 latent pixels).
        """
        return self.conv_out(self.features(sample, timestep, encoder_hidden_states))

    def features(
        self,
        sample: mx.array,
        timestep: float | None,
        encoder_hidden_states: EncoderHiddenStates,
        residuals: tuple[list[mx.array], mx.array] | None = None,
    ) -> mx.array:
        """Return the input of `conv_out`, (B, H, W, block_out_channels[0]).

        timestep: None after `fold.fold`. encoder_hidden_states: (B, 77, D), or an iterator over
        `fold.prompt_products`. residuals: of a ControlNet, added to the skips and to the middle.
        """
        # every resnet projects silu(time)
        time = None if timestep is None else silu(self.time_embedding(timestep, sample.dtype))
        x = self.conv_in(sample)
        skips = [x]
        for down in self.down_blocks:
            x, pushed = down(x, time, encoder_hidden_states)
            skips += pushed
        if "mid_block" in self:
            x = self.mid_block(x, time, encoder_hidden_states)
        if residuals is not None:
            skips = [skip + residual for skip, residual in zip(skips, residuals[0], strict=True)]
            x = x + residuals[1]
        for up in self.up_blocks:
            x = up(x, time, encoder_hidden_states, skips)
        return self.conv_norm_out.then_silu(x)
