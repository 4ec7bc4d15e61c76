"""UNet2DConditionModel in MIL: the twin of `mlx_sdxs/networks/unet.py`, class by class.

One timestep is folded in: its embedding and every resnet's projection of it are constants,
computed here in float32 and added to a bias. Feature maps are (1, C, H, W). `ops.to_tokens` gives
the layout of tokens.
"""

import math

import numpy as np

from ...common.checkpoint.config.unet import UNetConfig
from ...common.checkpoint.layout import up_resnet_channels
from .ops import (
    AttentionForm,
    Downsample,
    Resnet,
    Upsample,
    Var,
    Weights,
    attention,
    conv,
    from_tokens,
    gelu,
    group_norm,
    layer_norm,
    linear,
    mb,
    silu,
    to_tokens,
)

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

    def __init__(self, weights: Weights, heads: int, form: AttentionForm) -> None:
        self.weights = weights
        self.heads = heads
        self.form: AttentionForm = form

    def __call__(self, x: Var, encoder_hidden_states: Var | None, norm: Weights) -> Var:
        """Attend from x to encoder_hidden_states, or to x itself for None.

        norm: the LayerNorm of x whose weight and bias are still to be applied.
        """
        w = self.weights
        source, their_norm = (
            (x, norm) if encoder_hidden_states is None else (encoder_hidden_states, None)
        )
        query = linear(x=x, weights=w["to_q"], norm=norm)
        key, value = (
            linear(x=source, weights=w[name], norm=their_norm) for name in ("to_k", "to_v")
        )
        y = attention(query=query, key=key, value=value, heads=self.heads, form=self.form)
        return linear(x=y, weights=w["to_out"][0])


class GEGLU:
    """Two linears from the halves of one tensor; the exact GELU of the second gates the first."""

    def __init__(self, weights: Weights, outputs: int) -> None:
        self.weights = weights
        self.outputs = outputs

    def __call__(self, x: Var, norm: Weights) -> Var:
        hidden, gate = (
            linear(x=x, weights=self.weights["proj"], norm=norm, rows=rows, label=label)
            for rows, label in (
                (slice(None, self.outputs), "_hidden"),
                (slice(self.outputs, None), "_gate"),
            )
        )
        return mb.mul(x=hidden, y=gelu(x=gate))


class FeedForward:
    def __init__(self, weights: Weights, channels: int) -> None:
        self.weights = weights
        self.geglu = GEGLU(weights["net"][0], 4 * channels)

    def __call__(self, x: Var, norm: Weights) -> Var:
        return linear(x=self.geglu(x, norm), weights=self.weights["net"][2])


class BasicTransformerBlock:
    def __init__(
        self, weights: Weights, channels: int, heads: int, only_cross: bool, form: AttentionForm
    ) -> None:
        self.weights = weights
        self.only_cross = only_cross
        self.attn1 = Attention(weights["attn1"], heads, form)
        self.attn2 = Attention(weights["attn2"], heads, form)
        self.ff = FeedForward(weights["ff"], channels)

    def __call__(self, x: Var, encoder_hidden_states: Var) -> Var:
        norms = [self.weights[f"norm{number}"] for number in (1, 2, 3)]
        h = layer_norm(x=x, weights=norms[0])
        x = mb.add(
            x=x, y=self.attn1(h, encoder_hidden_states if self.only_cross else None, norms[0])
        )
        h = layer_norm(x=x, weights=norms[1])
        x = mb.add(x=x, y=self.attn2(h, encoder_hidden_states, norms[1]))
        h = layer_norm(x=x, weights=norms[2])
        return mb.add(x=x, y=self.ff(h, norms[2]))


class Transformer2DModel:
    """Transformer blocks over all positions of a feature map, (1, C, H, W) in and out."""

    def __init__(
        self,
        config: UNetConfig,
        block: int,
        only_cross: bool,
        weights: Weights,
        form: AttentionForm,
    ) -> None:
        channels, heads = config.block_out_channels[block], config.heads[block]
        self.config = config
        self.weights = weights
        self.form: AttentionForm = form
        self.transformer_blocks = [
            BasicTransformerBlock(
                weights["transformer_blocks"][i], channels, heads, only_cross, form
            )
            for i in range(config.transformer_layers_per_block[block])
        ]

    def __call__(self, x: Var, encoder_hidden_states: Var) -> Var:
        w, by_linear = self.weights, self.config.use_linear_projection
        h = group_norm(
            x=x, weights=w["norm"], groups=self.config.norm_num_groups, eps=TRANSFORMER_NORM_EPS
        )
        if by_linear:
            h = linear(x=to_tokens(x=h, form=self.form), weights=w["proj_in"])
        else:
            h = to_tokens(x=conv(x=h, weights=w["proj_in"]), form=self.form)
        for block in self.transformer_blocks:
            h = block(h, encoder_hidden_states)
        if by_linear:
            h = from_tokens(x=linear(x=h, weights=w["proj_out"]), shape=x.shape)
        else:
            h = conv(x=from_tokens(x=h, shape=x.shape), weights=w["proj_out"])
        return mb.add(x=x, y=h)


class DownBlock:
    """DownBlock2D or CrossAttnDownBlock2D of diffusers."""

    def __init__(
        self, config: UNetConfig, level: int, weights: Weights, form: AttentionForm
    ) -> None:
        layers = config.layers_per_block[level]
        self.resnets = [
            Resnet(weights["resnets"][j], config.norm_num_groups, config.norm_eps)
            for j in range(layers)
        ]
        self.attentions: list[Transformer2DModel] = []
        if config.down_block_types[level] == "CrossAttnDownBlock2D":
            only_cross = config.only_cross_attention[level]
            self.attentions = [
                Transformer2DModel(config, level, only_cross, weights["attentions"][j], form)
                for j in range(layers)
            ]
        self.downsamplers: list[Downsample] = []
        if level < len(config.block_out_channels) - 1:
            self.downsamplers = [Downsample(weights["downsamplers"][0])]

    def __call__(
        self, x: Var, time: np.ndarray, encoder_hidden_states: Var
    ) -> tuple[Var, list[Var]]:
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

    def __init__(self, config: UNetConfig, weights: Weights, form: AttentionForm) -> None:
        last = len(config.block_out_channels) - 1
        self.resnets = [
            Resnet(weights["resnets"][j], config.norm_num_groups, config.norm_eps) for j in range(2)
        ]
        self.attentions = [Transformer2DModel(config, last, False, weights["attentions"][0], form)]

    def __call__(self, x: Var, time: np.ndarray, encoder_hidden_states: Var) -> Var:
        x = self.attentions[0](self.resnets[0](x, time), encoder_hidden_states)
        return self.resnets[1](x, time)


class UpBlock:
    """UpBlock2D or CrossAttnUpBlock2D of diffusers; pops its skips from the end of the list."""

    def __init__(
        self, config: UNetConfig, level: int, weights: Weights, form: AttentionForm
    ) -> None:
        last, layers = len(config.block_out_channels) - 1, len(up_resnet_channels(config, level))
        self.resnets = [
            Resnet(weights["resnets"][j], config.norm_num_groups, config.norm_eps)
            for j in range(layers)
        ]
        self.attentions: list[Transformer2DModel] = []
        if config.up_block_types[level] == "CrossAttnUpBlock2D":
            only_cross = config.only_cross_attention[last - level]
            self.attentions = [
                Transformer2DModel(config, last - level, only_cross, weights["attentions"][j], form)
                for j in range(layers)
            ]
        self.upsamplers = [Upsample(weights["upsamplers"][0])] if level < last else []

    def __call__(
        self, x: Var, time: np.ndarray, encoder_hidden_states: Var, skips: list[Var]
    ) -> Var:
        for j, resnet in enumerate(self.resnets):
            x = resnet(mb.concat(values=[x, skips.pop()], axis=1), time)
            if self.attentions:
                x = self.attentions[j](x, encoder_hidden_states)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class UNet2DConditionModel:
    """Predict eps, the noise in `sample`, given encoder_hidden_states."""

    def __init__(self, config: UNetConfig, weights: Weights, form: AttentionForm) -> None:
        blocks = range(len(config.block_out_channels))
        self.config = config
        self.weights = weights
        self.form: AttentionForm = form
        self.time_embedding = TimestepEmbedding(config, weights["time_embedding"])
        self.down_blocks = [DownBlock(config, i, weights["down_blocks"][i], form) for i in blocks]
        self.mid_block = MidBlock(config, weights["mid_block"], form) if config.mid_block else None
        self.up_blocks = [UpBlock(config, i, weights["up_blocks"][i], form) for i in blocks]

    def __call__(self, sample: Var, timestep: float, encoder_hidden_states: Var) -> Var:
        """Return eps, of the shape of `sample` (1, C, H, W).

        encoder_hidden_states: float16 (1, 77, D). H and W are multiples of the UNet's reduction
        (4 or 8 latent pixels).
        """
        return conv(
            x=self.features(sample, timestep, encoder_hidden_states),
            weights=self.weights["conv_out"],
        )

    def features(
        self,
        sample: Var,
        timestep: float,
        encoder_hidden_states: Var,
        residuals: tuple[list[Var], Var] | None = None,
    ) -> Var:
        """Return the input of `conv_out`, (1, block_out_channels[0], H, W).

        residuals: of a ControlNet, added to the skips and to the middle.
        """
        time = silu_numpy(self.time_embedding(timestep))  # every resnet projects silu(time)
        encoder_hidden_states = prompt_tokens(encoder_hidden_states, self.form)
        x = conv(x=sample, weights=self.weights["conv_in"])
        skips = [x]
        for down in self.down_blocks:
            x, pushed = down(x, time, encoder_hidden_states)
            skips += pushed
        if self.mid_block:
            x = self.mid_block(x, time, encoder_hidden_states)
        if residuals is not None:
            skips = [
                mb.add(x=skip, y=residual)
                for skip, residual in zip(skips, residuals[0], strict=True)
            ]
            x = mb.add(x=x, y=residuals[1])
        for up in self.up_blocks:
            x = up(x, time, encoder_hidden_states, skips)
        norm, groups = self.weights["conv_norm_out"], self.config.norm_num_groups
        return silu(x=group_norm(x=x, weights=norm, groups=groups, eps=self.config.norm_eps))


def prompt_tokens(encoder_hidden_states: Var, form: AttentionForm) -> Var:
    """Return (1, 77, D) in the layout of tokens of the attention `form`."""
    if form == "split_einsum":
        # (1, D, 1, 77)
        return mb.expand_dims(x=mb.transpose(x=encoder_hidden_states, perm=[0, 2, 1]), axes=[2])
    return encoder_hidden_states


def silu_numpy(x: np.ndarray) -> np.ndarray:
    """Return x * sigmoid(x), for the constants."""
    y: np.ndarray = x / (1 + np.exp(-x))
    return y
