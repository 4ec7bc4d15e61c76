"""Turn a UNet into the leaner one that a live stream needs: same pictures, less work.

The timestep never changes, so the time embedding and every resnet's projection of it are constants,
added into a bias. The prompt changes rarely, so the keys and values of cross-attention are computed
once per prompt instead of once per frame. Self-attention gets its queries, keys and values from one
product. `tests/test_fold.py` holds the folded UNet to the plain one.
"""

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn

from .controlnet import ControlNetModel
from .layers import Resnet
from .ops import silu
from .unet import Attention, BasicTransformerBlock, UNet2DConditionModel

PromptProducts = list[tuple[mx.array, mx.array]]


def fold(unet: UNet2DConditionModel | ControlNetModel, timestep: float) -> None:
    """Fold `timestep` into `unet` and fuse its self-attentions, in place.

    Afterwards `features` takes None for the timestep. The tensors that are no longer needed are dropped.
    """
    dtype = unet.conv_in.weight.dtype
    time = silu(unet.time_embedding(timestep, mx.float32))
    for module in unet.modules():
        if isinstance(module, Resnet) and "time_emb_proj" in module:
            bias = module.conv1.bias.astype(mx.float32) + module.time_emb_proj(time)[0]
            module.conv1.bias = bias.astype(dtype)
            module.pop("time_emb_proj")
        elif isinstance(module, BasicTransformerBlock) and not module.only_cross:
            _fuse(module.attn1)
    unet.pop("time_embedding")
    mx.eval(unet.parameters())


def prompt_products(unet: UNet2DConditionModel | ControlNetModel, encoder_hidden_states: mx.array) -> PromptProducts:
    """Keys and values of every cross-attention, in the order in which a frame needs them.

    encoder_hidden_states: (1, 77, D). Each key and value is (1, heads, 77, head_dim).
    """
    return [attention.keys_and_values(encoder_hidden_states) for attention in _cross_attentions(unet)]


def _cross_attentions(unet: UNet2DConditionModel | ControlNetModel) -> Iterator[Attention]:
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
