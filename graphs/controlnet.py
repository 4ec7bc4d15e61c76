"""ControlNetModel in MIL: the twin of `mlx_sdxs/networks/controlnet.py`, class by class.

Feature maps are float16 (1, C, H, W). The timestep is folded in, as in the UNet.
"""

from typing import NamedTuple

from ...common.checkpoint.config.controlnet import ControlNetConfig
from ...common.checkpoint.layout import skip_channels
from .ops import AttentionForm, Var, conv, mb, silu
from .unet import DownBlock, MidBlock, TimestepEmbedding, prompt_tokens, silu_numpy
from .weights import Weights


class Residuals(NamedTuple):
    """The residuals of a ControlNet: one per skip of the down path, one for the middle."""

    skips: list[Var]
    middle: Var


class ConditioningEmbedding:
    """Embed edges (1, 1, 8h, 8w) in [0, 1] as (1, channels, h, w) by strided convolutions.

    The checkpoint's first layer reads the edges three times; here its kernel is summed instead.
    """

    def __init__(self, config: ControlNetConfig, weights: Weights) -> None:
        self.weights = weights
        self.halvings = len(config.embedding) - 1

    def __call__(self, x: Var) -> Var:
        x = silu(x=conv(x=x, weights=self.weights["conv_in"], equal_inputs=True))
        for i in range(self.halvings):
            x = silu(x=conv(x=x, weights=self.weights["blocks"][2 * i]))
            x = silu(x=conv(x=x, weights=self.weights["blocks"][2 * i + 1], stride=2))
        return conv(x=x, weights=self.weights["conv_out"])


class ControlNetModel:
    """Predict the residuals that make a UNet follow edges."""

    def __init__(self, config: ControlNetConfig, weights: Weights, form: AttentionForm) -> None:
        unet = config.unet
        self.config = config
        self.weights = weights
        self.form: AttentionForm = form
        self.time_embedding = TimestepEmbedding(unet, weights["time_embedding"])
        self.controlnet_cond_embedding = ConditioningEmbedding(
            config, weights["controlnet_cond_embedding"]
        )
        self.down_blocks = [
            DownBlock(unet, i, weights["down_blocks"][i], form)
            for i in range(len(unet.block_out_channels))
        ]
        self.mid_block = MidBlock(unet, weights["mid_block"], form) if unet.mid_block else None

    def __call__(
        self, sample: Var, timestep: float, encoder_hidden_states: Var, edges: Var, scale: Var
    ) -> Residuals:
        """Return the residuals for `UNet2DConditionModel.features` with the same arguments.

        sample: float16 (1, C, h, w). edges: float16 (1, 1, 8h, 8w) in [0, 1], white on black.
        scale: the control scale, float16 (1,).
        """
        time = silu_numpy(self.time_embedding(timestep))
        encoder_hidden_states = prompt_tokens(encoder_hidden_states, self.form)
        x = mb.add(
            x=conv(x=sample, weights=self.weights["conv_in"]),
            y=self.controlnet_cond_embedding(edges),
        )
        skips = [x]
        for down in self.down_blocks:
            x, pushed = down(x, time, encoder_hidden_states)
            skips += pushed
        if self.mid_block:
            x = self.mid_block(x, time, encoder_hidden_states)
        residuals = [
            mb.mul(x=conv(x=skips[i], weights=self.weights["controlnet_down_blocks"][i]), y=scale)
            for i in range(len(skip_channels(self.config.unet)))
        ]
        return Residuals(
            residuals, mb.mul(x=conv(x=x, weights=self.weights["controlnet_mid_block"]), y=scale)
        )
