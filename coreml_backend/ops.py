"""The operations of the graphs in MIL, for Core ML programs in float16."""

from collections.abc import Sequence

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, Var, types
from coremltools.converters.mil.mil.passes import pass_pipeline

from ..graphs.compression import Compressed
from ..graphs.ops import AttentionForm, Ops
from ..graphs.weights import Weights

__all__ = ["Function", "MilOps", "Program", "Var", "ct", "mb", "pass_pipeline", "types"]


class MilOps(Ops):
    """MIL operations. Everything is `mb`'s, in the function that is being built."""

    format = "Core ML"

    def __init__(self, form: AttentionForm, blockwise: bool = True) -> None:
        """blockwise: use macOS 15's compression operations, not macOS 13's."""
        super().__init__(form)
        self.blockwise = blockwise

    def convolve(
        self,
        x: Var,
        kernel: Var | np.ndarray,
        bias: np.ndarray | None,
        pad: tuple[int, int, int, int],
        name: str,
        stride: int = 1,
    ) -> Var:
        # pad_type "same" at stride 2 pads bottom and right first, as TensorFlow does
        return mb.conv(
            x=x,
            weight=kernel,
            strides=[stride] * 2,
            pad_type="custom",
            pad=list(pad),
            name=name,
            **self._bias(bias, name),
        )

    def project(self, x: Var, kernel: Var | np.ndarray, bias: np.ndarray | None, name: str) -> Var:
        return mb.linear(x=x, weight=kernel, name=name, **self._bias(bias, name))

    def _bias(self, bias: np.ndarray | None, name: str) -> dict[str, np.ndarray]:
        return {} if bias is None else {"bias": self.rounded(bias, name)}

    def group_norm(self, x: Var, weights: Weights, groups: int, eps: float) -> Var:
        """Normalise groups of channels in rank 4, with the groups as the batch axis.

        The Neural Engine limits an axis to 16,384 elements (FluidAudio#121); a flat C/G*H*W axis
        has up to 122,880 in SDXS-0.9 at 512. Instance normalisation of rank 5 aborts on the GPU
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
            gamma=self.rounded(weights.float32("weight"), name),
            beta=self.rounded(weights.float32("bias"), name),
            epsilon=np.float16(0),
        )

    def normalise(self, x: Var, axis: int, eps: float, name: str) -> Var:
        return mb.layer_norm(x=x, axes=[axis], epsilon=np.float16(eps), name=name)

    def decompress(self, compressed: Compressed) -> Var:
        """macOS 14 and 15 have different operations for both kinds."""
        codes, scale, table = compressed.codes, compressed.scale, compressed.table
        if scale is not None:
            if self.blockwise:
                return mb.constexpr_blockwise_shift_scale(data=codes, scale=scale)
            # GPU and Neural Engine misread signed data in this operation (coremltools#2114, #2675).
            # uint8 with zero point 128 holds the same values.
            unsigned = (codes.astype(np.int16) + 128).astype(np.uint8)
            return mb.constexpr_affine_dequantize(
                quantized_data=unsigned,
                zero_point=np.uint8(128),
                scale=scale.reshape(-1),
                axis=np.int32(0),
            )
        assert table is not None
        bits = compressed.bits
        if self.blockwise:
            subbyte = types.nptype_from_builtin(types.string_to_builtin(f"uint{bits}"))
            lut = table.reshape(*[1] * codes.ndim, -1, 1)
            return mb.constexpr_lut_to_dense(indices=codes.astype(subbyte), lut=lut)
        flags = codes.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8) & 1
        # lowest bit first, across bytes
        packed = np.packbits(flags.astype(np.uint8), bitorder="little")
        return mb.constexpr_lut_to_dense(
            indices=packed, lut=table, shape=np.array(codes.shape, np.uint32)
        )

    def attention(
        self, query: Var, key: Var, value: Var, heads: int, form: AttentionForm | None = None
    ) -> Var:
        """Attend in a form of `AttentionForm`.

        'matmul' and 'split_einsum' scale q first, so that q k^T stays within float16. 'sdpa'
        cannot: the operation itself divides the product, and where in it is Core ML's choice.
        """
        form = form or self.form
        if form == "split_einsum":
            return self._split_einsum(query, key, value, heads)
        _, tokens, channels = query.shape
        q, k, v = (_split_heads(x, heads) for x in (query, key, value))  # (1, heads, S, head_dim)
        if form == "sdpa":
            # this operation scales by head_dim ** -0.5 itself
            y = mb.scaled_dot_product_attention(query=q, key=k, value=v)
        else:
            scaled = self.affine(q, scale=(channels // heads) ** -0.5)
            scores = mb.matmul(x=scaled, y=k, transpose_y=True)
            y = mb.matmul(x=mb.softmax(x=scores, axis=-1), y=v)
        return mb.reshape(x=mb.transpose(x=y, perm=[0, 2, 1, 3]), shape=[1, tokens, channels])

    def _split_einsum(self, query: Var, key: Var, value: Var, heads: int) -> Var:
        """Compute one attention per head, channels first: the layout of the Neural Engine."""
        query = self.affine(query, scale=(query.shape[1] // heads) ** -0.5)
        key = mb.transpose(x=key, perm=[0, 3, 2, 1])  # (1, keys, 1, C)
        parts = [_in_heads(query, heads, 1), _in_heads(key, heads, 3), _in_heads(value, heads, 1)]
        outputs = []
        for q, k, v in zip(*parts, strict=True):
            scores = mb.einsum(values=[k, q], equation="bkhc,bchq->bkhq")  # (1, keys, 1, queries)
            outputs.append(
                mb.einsum(values=[v, mb.softmax(x=scores, axis=1)], equation="bchk,bkhq->bchq")
            )
        return mb.concat(values=outputs, axis=1) if heads > 1 else outputs[0]

    def silu(self, x: Var) -> Var:
        return mb.silu(x=x)

    def gelu(self, x: Var) -> Var:
        return mb.gelu(x=x, mode="EXACT")

    def relu(self, x: Var) -> Var:
        return mb.relu(x=x)

    def tanh(self, x: Var) -> Var:
        return mb.tanh(x=x)

    def upsample(self, x: Var) -> Var:
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2)

    def reshape(self, x: Var, shape: Sequence[int]) -> Var:
        return mb.reshape(x=x, shape=list(shape))

    def transpose(self, x: Var, axes: Sequence[int]) -> Var:
        return mb.transpose(x=x, perm=list(axes))

    def expand_dims(self, x: Var, axis: int) -> Var:
        return mb.expand_dims(x=x, axes=[axis])

    def concat(self, values: Sequence[Var]) -> Var:
        return mb.concat(values=list(values), axis=1)

    def halves(self, x: Var) -> tuple[Var, Var]:
        first, second = mb.split(x=x, num_splits=2, axis=1)
        return first, second

    def add(self, x: Var, y: Var, name: str = "") -> Var:
        return mb.add(x=x, y=y, **_named(name))

    def sub(self, x: Var, y: Var) -> Var:
        return mb.sub(x=x, y=y)

    def mul(self, x: Var, y: Var | np.floating, name: str = "") -> Var:
        return mb.mul(x=x, y=y, **_named(name))

    def divide(self, x: Var, by: float) -> Var:
        return mb.real_div(x=x, y=_dtype(x)(by))

    def affine(self, x: Var, scale: float = 1, offset: float = 0) -> Var:
        if scale != 1:
            x = mb.mul(x=x, y=_dtype(x)(scale))
        return mb.add(x=x, y=_dtype(x)(offset)) if offset else x

    def round(self, x: Var) -> Var:
        return mb.round(x=x)

    def clip(self, x: Var, low: float, high: float, name: str = "") -> Var:
        return mb.clip(x=x, alpha=_dtype(x)(low), beta=_dtype(x)(high), **_named(name))

    def mean(self, x: Var, axis: int, name: str = "") -> Var:
        return mb.reduce_mean(x=x, axes=[axis], keep_dims=True, **_named(name))

    def lower(self, x: Var) -> Var:
        return mb.cast(x=x, dtype="fp16")

    def to_float32(self, x: Var, name: str = "") -> Var:
        return mb.cast(x=x, dtype="fp32", **_named(name))


def _dtype(x: Var) -> type[np.floating]:
    return np.float16 if x.dtype == types.fp16 else np.float32


def _named(name: str) -> dict[str, str]:
    return {"name": name} if name else {}


def _split_heads(x: Var, heads: int) -> Var:
    _, tokens, channels = x.shape
    return mb.transpose(
        x=mb.reshape(x=x, shape=[1, tokens, heads, channels // heads]), perm=[0, 2, 1, 3]
    )


def _in_heads(x: Var, heads: int, axis: int) -> list[Var]:
    return list(mb.split(x=x, num_splits=heads, axis=axis)) if heads > 1 else [x]
