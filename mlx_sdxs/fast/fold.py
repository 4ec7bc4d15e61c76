"""Fold the fixed timestep and the prompt into a UNet or ControlNet: same pictures, less work.

The timestep is fixed, so each resnet's projection of its embedding becomes part of a bias. Keys and
values of cross-attention are computed once per prompt, not once per frame. Self-attention computes
queries, keys and values in one product. `tests/test_fold.py` compares both UNets.
"""

import math
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn

from ...common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ..networks.controlnet import ControlNetModel
from ..networks.layers import Resnet
from ..networks.unet import Attention, BasicTransformerBlock, UNet2DConditionModel
from .ops import silu

PromptProducts = list[tuple[mx.array, mx.array]]
PROMPT_PLACES = 80  # 77 tokens, padded to a multiple of 8


class PromptAttention(nn.Module):
    """Cross-attention in two products, folded per prompt.

    The keys of a prompt absorb the weights of `to_q`, its values those of `to_out`. Computes the
    same function as `Attention`. The scores pass through memory, in the dtype of x.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def __call__(
        self, x: mx.array, encoder_hidden_states: Iterator[tuple[mx.array, mx.array]]
    ) -> mx.array:
        """Map x (B, M, C) to the same shape.

        encoder_hidden_states: an iterator over results of `keys_and_values`.
        """
        keys, values = next(encoder_hidden_states)
        heads, (batch, tokens, channels) = self.attention._heads, x.shape
        mask = mx.where(mx.arange(PROMPT_PLACES) < PROMPT_TOKENS, 0.0, -math.inf).astype(x.dtype)
        scores = mx.addmm(mx.tile(mask, heads), x.reshape(-1, channels), keys)  # (B M, heads 80)
        weights = mx.softmax(
            scores.reshape(-1, heads, PROMPT_PLACES), axis=-1, precise=True
        ).reshape(scores.shape)
        return mx.addmm(self.attention.to_out[0].bias, weights, values).reshape(
            batch, tokens, channels
        )

    def keys_and_values(self, encoder_hidden_states: mx.array) -> tuple[mx.array, mx.array]:
        """Fold encoder_hidden_states (1, 77, D) into (C, heads 80) and (heads 80, C).

        Three of every 80 positions are padding: products are faster at multiples of 8.
        """
        attention = self.attention
        channels, heads = attention.to_q.weight.shape[1], attention._heads
        # (heads, 77, head_dim)
        keys, values = (
            part[0].astype(mx.float32) for part in attention.keys_and_values(encoder_hidden_states)
        )
        head_dim = keys.shape[-1]
        queries = (
            attention.to_q.weight.astype(mx.float32).reshape(heads, head_dim, channels)
            * head_dim**-0.5
        )
        output = attention.to_out[0].weight.astype(mx.float32).reshape(channels, heads, head_dim)
        seen = _padded(keys @ queries)  # (heads, 80, C)
        given = _padded(values @ output.transpose(1, 2, 0))
        dtype = encoder_hidden_states.dtype
        return mx.contiguous(seen.reshape(-1, channels).T.astype(dtype)), given.reshape(
            -1, channels
        ).astype(dtype)


def _padded(x: mx.array) -> mx.array:
    return mx.pad(x, ((0, 0), (0, PROMPT_PLACES - PROMPT_TOKENS), (0, 0)))


def fold(
    unet: UNet2DConditionModel | ControlNetModel, timestep: float, prompt: bool = False
) -> None:
    """Fold `timestep` into `unet` and fuse its self-attentions, in place.

    prompt: also replace cross-attention by `PromptAttention`. Afterwards the network takes None as
    timestep, and its unused tensors are gone.
    """
    dtype = unet.conv_in.weight.dtype
    time = silu(unet.time_embedding(timestep, mx.float32))
    for module in unet.modules():
        if isinstance(module, Resnet) and "time_emb_proj" in module:
            bias = module.conv1.bias.astype(mx.float32) + module.time_emb_proj(time)[0]
            module.conv1.bias = bias.astype(dtype)
            module.pop("time_emb_proj")
        elif isinstance(module, BasicTransformerBlock):
            if not module.only_cross:
                _fuse(module.attn1)
            for name in (("attn1", "attn2") if module.only_cross else ("attn2",)) if prompt else ():
                module[name] = PromptAttention(module[name])
    unet.pop("time_embedding")
    mx.eval(unet.parameters())


def prompt_products(
    unet: UNet2DConditionModel | ControlNetModel, encoder_hidden_states: mx.array
) -> PromptProducts:
    """Return keys and values of every cross-attention, in the order of their use.

    encoder_hidden_states: (1, 77, D). Keys and values are (1, heads, 77, head_dim) each; those of
    `PromptAttention` are folded.
    """
    return [
        attention.keys_and_values(encoder_hidden_states) for attention in _cross_attentions(unet)
    ]


def _cross_attentions(
    unet: UNet2DConditionModel | ControlNetModel,
) -> Iterator[Attention | PromptAttention]:
    middle = [unet.mid_block] if "mid_block" in unet else []
    ups = unet.up_blocks if "up_blocks" in unet else []
    for block in [*unet.down_blocks, *middle, *ups]:
        for transformer in block.attentions if "attentions" in block else []:
            for layer in transformer.transformer_blocks:
                if layer.only_cross:
                    yield layer.attn1
                yield layer.attn2


def _fuse(attention: Attention) -> None:
    """Replace the three projections of a self-attention by one."""
    layers = [attention.pop(name) for name in ("to_q", "to_k", "to_v")]
    outputs, inputs = sum(layer.weight.shape[0] for layer in layers), layers[0].weight.shape[1]
    attention.to_qkv = nn.Linear(inputs, outputs, bias=False)
    attention.to_qkv.weight = mx.concatenate([layer.weight for layer in layers])
