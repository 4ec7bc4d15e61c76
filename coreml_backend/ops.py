"""MIL operations and shared layers of the networks: the twin of `mlx_sdxs/networks/layers.py`.

Everything is float16. Feature maps are (1, C, H, W). Tokens are (1, S, C), or (1, C, 1, S) for the
Neural Engine; `linear` and `layer_norm` distinguish them by rank.
"""

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, Var, types
from coremltools.converters.mil.mil.passes import pass_pipeline

from ..options import AttentionForm
from .compression import stored
from .weights import Weights, half

__all__ = [
    "AttentionForm",
    "Downsample",
    "Function",
    "Program",
    "Resnet",
    "Upsample",
    "Var",
    "Weights",
    "affine",
    "attention",
    "conv",
    "convolve",
    "ct",
    "from_tokens",
    "gelu",
    "group_norm",
    "half",
    "layer_norm",
    "linear",
    "mb",
    "pass_pipeline",
    "silu",
    "to_tokens",
    "types",
    "upsample",
]

LAYER_NORM_EPS = 1e-5

# Convolutions, products and norms


def conv(
    *,
    x: Var,
    weights: Weights,
    stride: int = 1,
    pad: tuple[int, int, int, int] | None = None,
    bias: np.ndarray | None = None,
    equal_inputs: bool = False,
) -> Var:
    """Convolve in 2-D with the kernel of a checkpoint.

    pad: top, bottom, left, right; the default keeps the size at stride 1. bias: float32, replaces
    the checkpoint's bias. equal_inputs: x has one channel that stands for all of the kernel's.
    """
    kernel = weights.float32("weight")
    if equal_inputs:
        kernel = kernel.sum(axis=1, keepdims=True)
    around = kernel.shape[-1] // 2
    return convolve(
        x=x,
        kernel=stored(kernel, weights),
        bias=weights.bias() if bias is None else bias,
        stride=stride,
        pad=pad or (around,) * 4,
        name=weights.label,
    )


def convolve(
    *,
    x: Var,
    kernel: Var | np.ndarray,
    bias: np.ndarray | None,
    pad: tuple[int, int, int, int],
    name: str,
    stride: int = 1,
) -> Var:
    """Convolve in 2-D with a given kernel, float16 (O, I, kH, kW)."""
    # pad_type "same" at stride 2 pads bottom and right first, as TensorFlow does
    optional = {} if bias is None else {"bias": half(bias, name)}
    return mb.conv(
        x=x,
        weight=kernel,
        strides=[stride] * 2,
        pad_type="custom",
        pad=list(pad),
        name=name,
        **optional,
    )


def linear(
    *,
    x: Var,
    weights: Weights,
    norm: Weights | None = None,
    rows: slice | None = None,
    label: str = "",
) -> Var:
    """Apply a linear layer to the channels of tokens.

    norm: the LayerNorm before it, whose weight and bias are folded into this layer's. rows: compute
    only these outputs. label: suffix for the name of such a part.
    """
    kernel, bias = weights.float32("weight"), weights.bias()
    if norm is not None:
        shift = kernel @ norm.float32("bias")
        bias = shift if bias is None else bias + shift
        kernel = kernel * norm.float32("weight")
    if rows is not None:
        kernel, bias = kernel[rows], None if bias is None else bias[rows]
    name = weights.label + label
    if x.rank == 4:
        return convolve(
            x=x,
            kernel=stored(kernel[:, :, None, None], weights),
            bias=bias,
            pad=(0,) * 4,
            name=name,
        )
    optional = {} if bias is None else {"bias": half(bias, name)}
    return mb.linear(x=x, weight=stored(kernel, weights), name=name, **optional)


def group_norm(*, x: Var, weights: Weights, groups: int, eps: float) -> Var:
    """Normalise groups of channels in rank 4, with the groups as the batch axis.

    The Neural Engine limits an axis to 16,384 elements (FluidAudio#121); a flat C/G*H*W axis has up
    to 122,880 in SDXS-0.9 at 512. Instance normalisation of rank 5 aborts on the GPU
    (coremltools#2667). A batch norm with mean 0 and variance 1 applies weight and bias.
    """
    _, channels, height, width = x.shape
    name = weights.label
    h = mb.reshape(x=x, shape=[groups, channels // groups, height, width])
    h = mb.layer_norm(x=h, axes=[1, 2, 3], epsilon=np.float16(eps), name=name)
    h = mb.reshape(x=h, shape=[1, channels, height, width])
    return mb.batch_norm(
        x=h,
        mean=np.zeros(channels, np.float16),
        variance=np.ones(channels, np.float16),
        gamma=half(weights.float32("weight"), name),
        beta=half(weights.float32("bias"), name),
        epsilon=np.float16(0),
    )


def layer_norm(*, x: Var, weights: Weights) -> Var:
    """Normalise over the channels of tokens, without weight and bias: `linear` folds them.

    Whether the Neural Engine compiles a program was seen to depend on their values
    (coreai-models#138, ANEForge#149).
    """
    axis = 1 if x.rank == 4 else 2
    return mb.layer_norm(x=x, axes=[axis], epsilon=np.float16(LAYER_NORM_EPS), name=weights.label)


def silu(*, x: Var) -> Var:
    return mb.silu(x=x)


def gelu(*, x: Var) -> Var:
    """Return the exact GELU, x * Phi(x)."""
    return mb.gelu(x=x, mode="EXACT")


def affine(*, x: Var, scale: float = 1, offset: float = 0) -> Var:
    """Return scale * x + offset in the dtype of x."""
    dtype = np.float16 if x.dtype == types.fp16 else np.float32
    if scale != 1:
        x = mb.mul(x=x, y=dtype(scale))
    return mb.add(x=x, y=dtype(offset)) if offset else x


def upsample(*, x: Var) -> Var:
    """Repeat every pixel twice in both directions."""
    return mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2)


# Attention


def to_tokens(*, x: Var, form: AttentionForm) -> Var:
    """Reshape (1, C, H, W) to (1, S, C), or to (1, C, 1, S) for split_einsum."""
    _, channels, height, width = x.shape
    if form == "split_einsum":
        return mb.reshape(x=x, shape=[1, channels, 1, height * width])
    return mb.transpose(x=mb.reshape(x=x, shape=[1, channels, height * width]), perm=[0, 2, 1])


def from_tokens(*, x: Var, shape: tuple[int, ...]) -> Var:
    """Undo `to_tokens`."""
    return mb.reshape(x=x if x.rank == 4 else mb.transpose(x=x, perm=[0, 2, 1]), shape=list(shape))


def attention(*, query: Var, key: Var, value: Var, heads: int, form: AttentionForm) -> Var:
    """Return softmax(q k^T / sqrt(head_dim)) v for projected tokens.

    'matmul' and 'split_einsum' scale q first, so that q k^T stays within float16. 'sdpa' cannot:
    the operation itself divides the product, and where in it is Core ML's choice.
    """
    if form == "split_einsum":
        return _split_einsum(query, key, value, heads)
    _, tokens, channels = query.shape
    q, k, v = (_split_heads(x, heads) for x in (query, key, value))  # (1, heads, tokens, head_dim)
    if form == "sdpa":
        # this operation scales by head_dim ** -0.5 itself
        y = mb.scaled_dot_product_attention(query=q, key=k, value=v)
    else:
        scores = mb.matmul(x=affine(x=q, scale=(channels // heads) ** -0.5), y=k, transpose_y=True)
        y = mb.matmul(x=mb.softmax(x=scores, axis=-1), y=v)
    return mb.reshape(x=mb.transpose(x=y, perm=[0, 2, 1, 3]), shape=[1, tokens, channels])


def _split_heads(x: Var, heads: int) -> Var:
    _, tokens, channels = x.shape
    return mb.transpose(
        x=mb.reshape(x=x, shape=[1, tokens, heads, channels // heads]), perm=[0, 2, 1, 3]
    )


def _split_einsum(query: Var, key: Var, value: Var, heads: int) -> Var:
    """Compute one attention per head, channels first: the layout of the Neural Engine."""
    query = affine(x=query, scale=(query.shape[1] // heads) ** -0.5)
    key = mb.transpose(x=key, perm=[0, 3, 2, 1])  # (1, keys, 1, C)
    parts = [_in_heads(query, heads, 1), _in_heads(key, heads, 3), _in_heads(value, heads, 1)]
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        scores = mb.einsum(values=[k, q], equation="bkhc,bchq->bkhq")  # (1, keys, 1, queries)
        outputs.append(
            mb.einsum(values=[v, mb.softmax(x=scores, axis=1)], equation="bchk,bkhq->bchq")
        )
    return mb.concat(values=outputs, axis=1) if heads > 1 else outputs[0]


def _in_heads(x: Var, heads: int, axis: int) -> list[Var]:
    return list(mb.split(x=x, num_splits=heads, axis=axis)) if heads > 1 else [x]


# Layers shared by the UNet and the full VAE


class Resnet:
    """ResnetBlock2D of diffusers; the time projection is folded into the bias of conv1."""

    def __init__(self, weights: Weights, groups: int, eps: float) -> None:
        self.weights = weights
        self.groups = groups
        self.eps = eps

    def __call__(self, x: Var, time: np.ndarray | None = None) -> Var:
        """Map x (1, inputs, H, W) to (1, outputs, H, W).

        time: silu of the time embedding, float32 (time_embed_dim,).
        """
        w, bias = self.weights, self.weights["conv1"].bias()
        if time is not None:
            project = w["time_emb_proj"]
            bias = bias + project.float32("weight") @ time + project.bias()
        h = silu(x=group_norm(x=x, weights=w["norm1"], groups=self.groups, eps=self.eps))
        h = conv(x=h, weights=w["conv1"], bias=bias)
        h = silu(x=group_norm(x=h, weights=w["norm2"], groups=self.groups, eps=self.eps))
        h = conv(x=h, weights=w["conv2"])
        return mb.add(
            x=h, y=conv(x=x, weights=w["conv_shortcut"]) if "conv_shortcut.weight" in w else x
        )


class Downsample:
    """Stride-2 convolution, padded on all sides (UNet) or at bottom and right only (VAE)."""

    def __init__(self, weights: Weights, symmetric: bool = True) -> None:
        self.weights = weights
        self.pad = (1, 1, 1, 1) if symmetric else (0, 1, 0, 1)

    def __call__(self, x: Var) -> Var:
        return conv(x=x, weights=self.weights["conv"], stride=2, pad=self.pad)


class Upsample:
    """Nearest-neighbour upsampling by two, then a convolution."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def __call__(self, x: Var) -> Var:
        return conv(x=upsample(x=x), weights=self.weights["conv"])
