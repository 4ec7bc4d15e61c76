"""UNet2DConditionModel as a graph: the twin of `mlx_sdxs/networks/unet.py`, class by class.

One timestep is folded in: its embedding and every resnet's projection of it are constants,
computed here in float32 and added to a bias.
"""

import math

import numpy as np

from ..common.checkpoint.config.unet import UNetConfig
from ..common.checkpoint.layout import up_resnet_channels
from .layers import Downsample, Resnet, Upsample
from .ops import Ops, Tensor
from .weights import Weights

TRANSFORMER_NORM_EPS = 1e-6  # of Transformer2DModel; every other GroupNorm uses norm_eps


class TimestepEmbedding:
    """Sinusoidal features of the timestep, then two linears; NumPy, because it is folded."""

    def __init__(self, config: UNetConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights

    def __call__(self, timestep: float) -> np.ndarray:
        """Return the embedding, float32 (time_embed_dim,)."""
        half = self.config.block_out_channels[0] // 2
        exponents = np.arange(half, dtype=np.float32) / (half - self.config.freq_shift)
        angles = np.float32(timestep) * np.exp(-math.log(10000) * exponents).astype(np.float32)
        waves = (
            (np.cos(angles), np.sin(angles))
            if self.config.flip_sin_to_cos
            else (np.sin(angles), np.cos(angles))
        )
        x = np.concatenate(waves)
        for name in ("linear_1", "linear_2"):
            layer = self.weights[name]
            x = layer.float32("weight") @ (
                x if name == "linear_1" else silu_numpy(x)
            ) + layer.float32("bias")
        return x


class Attention:
    """Multi-head attention from x to encoder_hidden_states; to x itself in self-attention."""

    def __init__(self, ops: Ops, weights: Weights, heads: int) -> None:
        self.ops = ops
        self.weights = weights
        self.heads = heads

    def __call__(self, x: Tensor, encoder_hidden_states: Tensor | None, norm: Weights) -> Tensor:
        """Attend from x to encoder_hidden_states, or to x itself for None.

        norm: the LayerNorm of x whose weight and bias are still to be applied.
        """
        ops, w = self.ops, self.weights
        source, their_norm = (
            (x, norm) if encoder_hidden_states is None else (encoder_hidden_states, None)
        )
        query = ops.linear(x, w["to_q"], norm=norm)
        key, value = (ops.linear(source, w[name], norm=their_norm) for name in ("to_k", "to_v"))
        return ops.linear(ops.attention(query, key, value, self.heads), w["to_out"][0])


class GEGLU:
    """Two linears from the halves of one tensor; the exact GELU of the second gates the first."""

    def __init__(self, ops: Ops, weights: Weights, outputs: int) -> None:
        self.ops = ops
        self.weights = weights
        self.outputs = outputs

    def __call__(self, x: Tensor, norm: Weights) -> Tensor:
        hidden, gate = (
            self.ops.linear(x, self.weights["proj"], norm=norm, rows=rows, label=label)
            for rows, label in (
                (slice(None, self.outputs), "_hidden"),
                (slice(self.outputs, None), "_gate"),
            )
        )
        return self.ops.mul(hidden, self.ops.gelu(gate))


class FeedForward:
    def __init__(self, ops: Ops, weights: Weights, channels: int) -> None:
        self.ops = ops
        self.weights = weights
        self.geglu = GEGLU(ops, weights["net"][0], 4 * channels)

    def __call__(self, x: Tensor, norm: Weights) -> Tensor:
        return self.ops.linear(self.geglu(x, norm), self.weights["net"][2])


class BasicTransformerBlock:
    def __init__(
        self, ops: Ops, weights: Weights, channels: int, heads: int, only_cross: bool
    ) -> None:
        self.ops = ops
        self.weights = weights
        self.only_cross = only_cross
        self.attn1 = Attention(ops, weights["attn1"], heads)
        self.attn2 = Attention(ops, weights["attn2"], heads)
        self.ff = FeedForward(ops, weights["ff"], channels)

    def __call__(self, x: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        ops, norms = self.ops, [self.weights[f"norm{number}"] for number in (1, 2, 3)]
        h = ops.layer_norm(x, norms[0])
        x = ops.add(x, self.attn1(h, encoder_hidden_states if self.only_cross else None, norms[0]))
        h = ops.layer_norm(x, norms[1])
        x = ops.add(x, self.attn2(h, encoder_hidden_states, norms[1]))
        h = ops.layer_norm(x, norms[2])
        return ops.add(x, self.ff(h, norms[2]))


class Transformer2DModel:
    """Transformer blocks over all positions of a feature map, (1, C, H, W) in and out."""

    def __init__(
        self, ops: Ops, config: UNetConfig, block: int, only_cross: bool, weights: Weights
    ) -> None:
        channels, heads = config.block_out_channels[block], config.heads[block]
        self.ops = ops
        self.config = config
        self.weights = weights
        self.transformer_blocks = [
            BasicTransformerBlock(
                ops, weights["transformer_blocks"][i], channels, heads, only_cross
            )
            for i in range(config.transformer_layers_per_block[block])
        ]

    def __call__(self, x: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        ops, w, by_linear = self.ops, self.weights, self.config.use_linear_projection
        h = ops.group_norm(x, w["norm"], self.config.norm_num_groups, TRANSFORMER_NORM_EPS)
        if by_linear:
            h = ops.linear(ops.to_tokens(h), w["proj_in"])
        else:
            h = ops.to_tokens(ops.conv(h, w["proj_in"]))
        for block in self.transformer_blocks:
            h = block(h, encoder_hidden_states)
        if by_linear:
            h = ops.from_tokens(ops.linear(h, w["proj_out"]), x.shape)
        else:
            h = ops.conv(ops.from_tokens(h, x.shape), w["proj_out"])
        return ops.add(x, h)


class DownBlock:
    """DownBlock2D or CrossAttnDownBlock2D of diffusers."""

    def __init__(self, ops: Ops, config: UNetConfig, level: int, weights: Weights) -> None:
        layers = config.layers_per_block[level]
        self.resnets = [
            Resnet(ops, weights["resnets"][j], config.norm_num_groups, config.norm_eps)
            for j in range(layers)
        ]
        self.attentions: list[Transformer2DModel] = []
        if config.down_block_types[level] == "CrossAttnDownBlock2D":
            only_cross = config.only_cross_attention[level]
            self.attentions = [
                Transformer2DModel(ops, config, level, only_cross, weights["attentions"][j])
                for j in range(layers)
            ]
        self.downsamplers: list[Downsample] = []
        if level < len(config.block_out_channels) - 1:
            self.downsamplers = [Downsample(ops, weights["downsamplers"][0])]

    def __call__(
        self, x: Tensor, time: np.ndarray, encoder_hidden_states: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for j, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if self.attentions:
                x = self.attentions[j](x, encoder_hidden_states)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class MidBlock:
    """UNetMidBlock2DCrossAttn: resnet, attention, resnet at the lowest resolution."""

    def __init__(self, ops: Ops, config: UNetConfig, weights: Weights) -> None:
        last = len(config.block_out_channels) - 1
        self.resnets = [
            Resnet(ops, weights["resnets"][j], config.norm_num_groups, config.norm_eps)
            for j in range(2)
        ]
        self.attentions = [Transformer2DModel(ops, config, last, False, weights["attentions"][0])]

    def __call__(self, x: Tensor, time: np.ndarray, encoder_hidden_states: Tensor) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, time), encoder_hidden_states)
        return self.resnets[1](x, time)


class UpBlock:
    """UpBlock2D or CrossAttnUpBlock2D of diffusers; pops its skips from the end of the list."""

    def __init__(self, ops: Ops, config: UNetConfig, level: int, weights: Weights) -> None:
        self.ops = ops
        last, layers = len(config.block_out_channels) - 1, len(up_resnet_channels(config, level))
        self.resnets = [
            Resnet(ops, weights["resnets"][j], config.norm_num_groups, config.norm_eps)
            for j in range(layers)
        ]
        self.attentions: list[Transformer2DModel] = []
        if config.up_block_types[level] == "CrossAttnUpBlock2D":
            only_cross = config.only_cross_attention[last - level]
            self.attentions = [
                Transformer2DModel(ops, config, last - level, only_cross, weights["attentions"][j])
                for j in range(layers)
            ]
        self.upsamplers = [Upsample(ops, weights["upsamplers"][0])] if level < last else []

    def __call__(
        self, x: Tensor, time: np.ndarray, encoder_hidden_states: Tensor, skips: list[Tensor]
    ) -> Tensor:
        for j, resnet in enumerate(self.resnets):
            x = resnet(self.ops.concat([x, skips.pop()]), time)
            if self.attentions:
                x = self.attentions[j](x, encoder_hidden_states)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class UNet2DConditionModel:
    """Predict eps, the noise in `sample`, given encoder_hidden_states."""

    def __init__(self, ops: Ops, config: UNetConfig, weights: Weights) -> None:
        blocks = range(len(config.block_out_channels))
        self.ops = ops
        self.config = config
        self.weights = weights
        self.time_embedding = TimestepEmbedding(config, weights["time_embedding"])
        self.down_blocks = [DownBlock(ops, config, i, weights["down_blocks"][i]) for i in blocks]
        self.mid_block = MidBlock(ops, config, weights["mid_block"]) if config.mid_block else None
        self.up_blocks = [UpBlock(ops, config, i, weights["up_blocks"][i]) for i in blocks]

    def __call__(self, sample: Tensor, timestep: float, encoder_hidden_states: Tensor) -> Tensor:
        """Return eps, of the shape of `sample` (1, C, H, W).

        encoder_hidden_states: (1, 77, D). H and W are multiples of the UNet's reduction
        (4 or 8 latent pixels).
        """
        features = self.features(sample, timestep, encoder_hidden_states)
        return self.ops.conv(features, self.weights["conv_out"])

    def features(
        self,
        sample: Tensor,
        timestep: float,
        encoder_hidden_states: Tensor,
        residuals: tuple[list[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the input of `conv_out`, (1, block_out_channels[0], H, W).

        residuals: of a ControlNet, added to the skips and to the middle.
        """
        ops, time = (
            self.ops,
            silu_numpy(self.time_embedding(timestep)),
        )  # resnets project silu(time)
        encoder_hidden_states = ops.prompt_tokens(encoder_hidden_states)
        x = ops.conv(sample, self.weights["conv_in"])
        skips = [x]
        for down in self.down_blocks:
            x, pushed = down(x, time, encoder_hidden_states)
            skips += pushed
        if self.mid_block:
            x = self.mid_block(x, time, encoder_hidden_states)
        if residuals is not None:
            skips = [
                ops.add(skip, residual) for skip, residual in zip(skips, residuals[0], strict=True)
            ]
            x = ops.add(x, residuals[1])
        for up in self.up_blocks:
            x = up(x, time, encoder_hidden_states, skips)
        norm, groups = self.weights["conv_norm_out"], self.config.norm_num_groups
        return ops.silu(ops.group_norm(x, norm, groups, self.config.norm_eps))


def silu_numpy(x: np.ndarray) -> np.ndarray:
    """Return x * sigmoid(x), for the constants."""
    y: np.ndarray = x / (1 + np.exp(-x))
    return y
