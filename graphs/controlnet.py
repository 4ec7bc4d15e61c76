"""ControlNetModel as a graph: the twin of `mlx_sdxs/networks/controlnet.py`, class by class.

The timestep is folded in, as in the UNet.
"""

from typing import NamedTuple

from ..common.checkpoint.config.controlnet import ControlNetConfig
from ..common.checkpoint.layout import skip_channels
from .ops import Ops, Tensor
from .unet import DownBlock, MidBlock, TimestepEmbedding, silu_numpy
from .weights import Weights


class Residuals(NamedTuple):
    """The residuals of a ControlNet: one per skip of the down path, one for the middle."""

    skips: list[Tensor]
    middle: Tensor


class ConditioningEmbedding:
    """Embed edges (1, 1, 8h, 8w) in [0, 1] as (1, channels, h, w) by strided convolutions.

    The checkpoint's first layer reads the edges three times; here its kernel is summed instead.
    """

    def __init__(self, ops: Ops, config: ControlNetConfig, weights: Weights) -> None:
        self.ops = ops
        self.weights = weights
        self.halvings = len(config.embedding) - 1

    def __call__(self, x: Tensor) -> Tensor:
        ops, blocks = self.ops, self.weights["blocks"]
        x = ops.silu(ops.conv(x, self.weights["conv_in"], equal_inputs=True))
        for i in range(self.halvings):
            x = ops.silu(ops.conv(x, blocks[2 * i]))
            x = ops.silu(ops.conv(x, blocks[2 * i + 1], stride=2))
        return ops.conv(x, self.weights["conv_out"])


class ControlNetModel:
    """Predict the residuals that make a UNet follow edges."""

    def __init__(self, ops: Ops, config: ControlNetConfig, weights: Weights) -> None:
        unet = config.unet
        self.ops = ops
        self.config = config
        self.weights = weights
        self.time_embedding = TimestepEmbedding(unet, weights["time_embedding"])
        self.controlnet_cond_embedding = ConditioningEmbedding(
            ops, config, weights["controlnet_cond_embedding"]
        )
        self.down_blocks = [
            DownBlock(ops, unet, i, weights["down_blocks"][i])
            for i in range(len(unet.block_out_channels))
        ]
        self.mid_block = MidBlock(ops, unet, weights["mid_block"]) if unet.mid_block else None

    def __call__(
        self,
        sample: Tensor,
        timestep: float,
        encoder_hidden_states: Tensor,
        edges: Tensor,
        scale: Tensor,
    ) -> Residuals:
        """Return the residuals for `UNet2DConditionModel.features` with the same arguments.

        sample: (1, C, h, w). edges: (1, 1, 8h, 8w) in [0, 1], white on black.
        scale: the control scale, (1,). All in the dtype of the networks.
        """
        ops, down, middle = (
            self.ops,
            self.weights["controlnet_down_blocks"],
            self.weights["controlnet_mid_block"],
        )
        time = silu_numpy(self.time_embedding(timestep))
        encoder_hidden_states = ops.prompt_tokens(encoder_hidden_states)
        x = ops.add(
            ops.conv(sample, self.weights["conv_in"]), self.controlnet_cond_embedding(edges)
        )
        skips = [x]
        for block in self.down_blocks:
            x, pushed = block(x, time, encoder_hidden_states)
            skips += pushed
        if self.mid_block:
            x = self.mid_block(x, time, encoder_hidden_states)
        residuals = [
            ops.mul(ops.conv(skips[i], down[i]), scale)
            for i in range(len(skip_channels(self.config.unet)))
        ]
        return Residuals(residuals, ops.mul(ops.conv(x, middle), scale))
