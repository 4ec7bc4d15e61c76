"""The operations of the graphs in Core AI.

A scalar takes the dtype of its operand: Core AI promotes nothing. Norms and attention are
composites: graphs that a compiler may know by name, with a body for where it does not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import coreai.authoring as authoring
import numpy as np
from coreai.authoring import DebugInfo, TensorType, Value
from coreai.authoring.constant import constant

from ..graphs.compression import Compressed
from ..graphs.ops import AttentionForm, Ops
from ..graphs.weights import Weights
from .private import at_begin_of_module, composite_declaration, graph, packed_constant

Composite: TypeAlias = Callable[..., Value]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of a graph with what the graphs ask of one."""

    value: Value

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.type.shape)

    @property
    def dtype(self) -> type[np.floating]:
        """Return float16 or float32."""
        return _dtype(self.value)


class CoreAIOps(Ops):
    """Core AI's operations, in the graph that is being built."""

    format = "Core AI"

    def __init__(self, form: AttentionForm, dtype: type[np.floating] = np.float16) -> None:
        super().__init__(form, dtype)
        self._composites: dict[tuple[object, ...], Callable[..., list[Value]]] = {}

    # With weights.

    def convolve(
        self,
        x: Tensor,
        kernel: Value | np.ndarray,
        bias: np.ndarray | None,
        pad: tuple[int, int, int, int],
        name: str,
        stride: int = 1,
    ) -> Tensor:
        """Pad, convolve and add the bias: this operation does neither of the other two."""
        with _named(name):
            h = x.value
            if any(pad):
                h = authoring.pad(h, _sizes(0, 0, 0, 0, *pad), x.dtype(0))
            y = authoring.conv2d(h, kernel, _sizes(stride, stride), _sizes(1, 1), np.uint32(1))
            if bias is not None:
                given = self.rounded(bias, name)[None, :, None, None]
                y = authoring.broadcasting_add(y, given)
        return Tensor(y)

    def project(
        self, x: Tensor, kernel: Value | np.ndarray, bias: np.ndarray | None, name: str
    ) -> Tensor:
        """Multiply in rank 3: rank 2 was seen 4 % off on the Neural Engine (coreai-torch#51)."""
        with _named(name):
            if isinstance(kernel, np.ndarray):
                columns: Value | np.ndarray = np.ascontiguousarray(kernel.T)[None]
            else:
                outputs, inputs = kernel.type.shape
                turned = authoring.transpose(kernel, _sizes(1, 0))
                columns = authoring.reshape(turned, _sizes(1, inputs, outputs))
            y = authoring.broadcasting_batch_matmul(x.value, columns)
            if bias is not None:
                y = authoring.broadcasting_add(y, self.rounded(bias, name)[None, None, :])
        return Tensor(y)

    def group_norm(self, x: Tensor, weights: Weights, groups: int, eps: float) -> Tensor:
        _, channels, height, width = x.shape
        name = weights.label
        gain, shift = (self.rounded(weights.float32(part), name) for part in ("weight", "bias"))

        def body(value: Value, gain: Value, shift: Value) -> Value:
            grouped = _sizes(1, groups, channels // groups, height * width)
            h = _normalised(authoring.reshape(value, grouped), (2, 3), eps)
            h = authoring.reshape(h, _sizes(1, channels, height, width))
            by_channel = _sizes(1, channels, 1, 1)
            h = authoring.broadcasting_mul(h, authoring.reshape(gain, by_channel))
            return authoring.broadcasting_add(h, authoring.reshape(shift, by_channel))

        attributes = {"num_groups": groups, "num_channels": channels, "eps": float(eps)}
        with _named(name):
            return self._composite(
                "group_norm",
                {"input": x.value, "weight": constant(gain), "bias": constant(shift)},
                attributes,
                body,
            )

    def normalise(self, x: Tensor, axis: int, eps: float, name: str) -> Tensor:
        with _named(name):
            return Tensor(_normalised(x.value, (axis,), eps))

    def decompress(self, compressed: Compressed) -> Value:
        codes, scale, table = compressed.codes, compressed.scale, compressed.table
        if scale is not None:
            zero_point, offset = np.zeros(scale.shape, np.int8), np.zeros(scale.shape, np.float16)
            return authoring.blockwise_shift_scale(codes, scale, zero_point, offset)
        assert table is not None
        lut = table.reshape(*[1] * codes.ndim, len(table), 1)
        indices = codes if compressed.bits == 8 else packed_constant(codes, compressed.bits)
        return authoring.lut_to_dense(indices, lut, np.int16(0))

    # Attention.

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        form: AttentionForm | None = None,
    ) -> Tensor:
        form = form or self.form
        if form == "split_einsum":
            return self._split_einsum(query, key, value, heads)
        _, tokens, channels = query.shape
        scale = query.dtype((channels // heads) ** -0.5)
        q, k, v = (_split_heads(x.value, heads) for x in (query, key, value))

        def body(query: Value, key: Value, value: Value) -> Value:
            scores = authoring.broadcasting_batch_matmul(
                authoring.broadcasting_mul(query, scale),
                authoring.transpose(key, _sizes(0, 1, 3, 2)),
            )
            weights = authoring.softmax(scores, np.int32(3))
            return authoring.broadcasting_batch_matmul(weights, value)

        if form == "sdpa":
            # by its name it scales by head_dim ** -0.5, as the body does
            y = self._composite(
                "scaled_dot_product_attention",
                {"query": q, "key": k, "value": v},
                {"is_causal": False, "window_size": 0},
                body,
            ).value
        else:
            y = body(q, k, v)
        merged = authoring.transpose(y, _sizes(0, 2, 1, 3))
        return Tensor(authoring.reshape(merged, _sizes(1, tokens, channels)))

    def _split_einsum(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Compute one attention per head, channels first, with the softmax over axis 1."""
        _, channels, _, queries = query.shape
        keys, width = key.shape[3], channels // heads
        scaled = self.affine(query, scale=width**-0.5)
        outputs = []
        for q, k, v in zip(*(_in_heads(x.value, heads) for x in (scaled, key, value)), strict=True):
            turned = authoring.transpose(
                authoring.reshape(k, _sizes(1, width, keys)), _sizes(0, 2, 1)
            )
            flat = authoring.reshape(q, _sizes(1, width, queries))
            weights = authoring.softmax(
                authoring.broadcasting_batch_matmul(turned, flat), np.int32(1)
            )
            y = authoring.broadcasting_batch_matmul(
                authoring.reshape(v, _sizes(1, width, keys)), weights
            )
            outputs.append(authoring.reshape(y, _sizes(1, width, 1, queries)))
        return Tensor(authoring.concat(np.int32(1), outputs) if heads > 1 else outputs[0])

    def _composite(
        self,
        name: str,
        inputs: Mapping[str, Value],
        attributes: Mapping[str, object],
        body: Composite,
    ) -> Tensor:
        """Call a private graph, one for each kind of inputs; its output is like the first input."""
        values = list(inputs.values())
        key = (name, str(sorted(attributes.items())), *(str(each.type) for each in values))
        if key not in self._composites:
            kinds = {named: _type(each, named) for named, each in inputs.items()}
            with at_begin_of_module():
                self._composites[key] = graph(
                    f"{name}_{len(self._composites) + 1}",
                    kinds,
                    {"output": _type(values[0], "output")},
                    body,
                    private=True,
                    no_inline=True,
                    composite_decl=composite_declaration(name, list(inputs), attributes),
                )
        return Tensor(self._composites[key](*values)[0])

    # Activations and shapes.

    def silu(self, x: Tensor) -> Tensor:
        return Tensor(authoring.silu(x.value))

    def gelu(self, x: Tensor) -> Tensor:
        return Tensor(authoring.gelu(x.value))

    def relu(self, x: Tensor) -> Tensor:
        return Tensor(authoring.relu(x.value))

    def tanh(self, x: Tensor) -> Tensor:
        return Tensor(authoring.tanh(x.value))

    def upsample(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        shape = np.array((count, channels, 2 * height, 2 * width), np.int32)
        scales, offsets = np.array((1, 1, 2, 2), np.float32), np.zeros(4, np.float32)
        return Tensor(authoring.interpolate(x.value, shape, scales, offsets, "nearest_neighbor"))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return Tensor(authoring.reshape(x.value, _sizes(*shape)))

    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        return Tensor(authoring.transpose(x.value, _sizes(*axes)))

    def expand_dims(self, x: Tensor, axis: int) -> Tensor:
        return Tensor(authoring.expand_dims(x.value, np.array([axis], np.int32)))

    def concat(self, values: Sequence[Tensor]) -> Tensor:
        return Tensor(authoring.concat(np.int32(1), [each.value for each in values]))

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = x.shape[1] // 2
        first, second = authoring.split(x.value, _sizes(half, half), np.int32(1))
        return Tensor(first), Tensor(second)

    # Arithmetic.

    def add(self, x: Tensor, y: Tensor, name: str = "") -> Tensor:
        return Tensor(authoring.broadcasting_add(x.value, _operand(y, x.dtype)))

    def sub(self, x: Tensor, y: Tensor) -> Tensor:
        return Tensor(authoring.broadcasting_sub(x.value, _operand(y, x.dtype)))

    def mul(self, x: Tensor, y: Tensor | np.floating, name: str = "") -> Tensor:
        return Tensor(authoring.broadcasting_mul(x.value, _operand(y, x.dtype)))

    def divide(self, x: Tensor, by: float) -> Tensor:
        return Tensor(authoring.broadcasting_divide(x.value, x.dtype(by)))

    def affine(self, x: Tensor, scale: float = 1, offset: float = 0) -> Tensor:
        value = x.value
        if scale != 1:
            value = authoring.broadcasting_mul(value, x.dtype(scale))
        if offset:
            value = authoring.broadcasting_add(value, x.dtype(offset))
        return Tensor(value)

    def round(self, x: Tensor) -> Tensor:
        return Tensor(authoring.round_(x.value))

    def clip(self, x: Tensor, low: float, high: float, name: str = "") -> Tensor:
        raised = authoring.broadcasting_maximum(x.value, x.dtype(low))
        return Tensor(authoring.broadcasting_minimum(raised, x.dtype(high)))

    def mean(self, x: Tensor, axis: int, name: str = "") -> Tensor:
        return Tensor(authoring.reduce_mean(x.value, np.array([axis], np.int32)))

    def lower(self, x: Tensor) -> Tensor:
        return x if x.dtype is self.dtype else Tensor(authoring.cast(x.value, self.dtype))

    def to_float32(self, x: Tensor, name: str = "") -> Tensor:
        return x if x.dtype is np.float32 else Tensor(authoring.cast(x.value, np.float32))


def _normalised(x: Value, axes: tuple[int, ...], eps: float) -> Value:
    """Subtract the mean over axes and divide by the deviation, both computed in float32."""
    half = _dtype(x) is np.float16
    wide = authoring.cast(x, np.float32) if half else x
    over = np.array(axes, np.int32)
    centred = authoring.broadcasting_sub(wide, authoring.reduce_mean(wide, over))
    variance = authoring.reduce_mean(authoring.mul(centred, centred), over)
    scale = authoring.rsqrt(authoring.broadcasting_add(variance, np.float32(eps)))
    y = authoring.broadcasting_mul(centred, scale)
    return authoring.cast(y, np.float16) if half else y


def _split_heads(x: Value, heads: int) -> Value:
    _, tokens, channels = x.type.shape
    split = authoring.reshape(x, _sizes(1, tokens, heads, channels // heads))
    return authoring.transpose(split, _sizes(0, 2, 1, 3))


def _in_heads(x: Value, heads: int) -> list[Value]:
    if heads == 1:
        return [x]
    return list(authoring.split(x, _sizes(*[x.type.shape[1] // heads] * heads), np.int32(1)))


def _sizes(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def _operand(y: Tensor | np.floating | np.ndarray, dtype: type[np.floating]) -> object:
    return y.value if isinstance(y, Tensor) else np.asarray(y, dtype)


def _dtype(x: Value) -> type[np.floating]:
    return np.float16 if "16" in str(x.type.dtype) else np.float32


def _type(x: Value, name: str) -> TensorType:
    return TensorType(tuple(x.type.shape), x.type.dtype, name=name)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the operations of the block in the compiler's messages."""
    with DebugInfo.file(name, 1).activate():
        yield
