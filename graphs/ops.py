"""The operations that the graphs are written in. Each format of a program implements them.

Feature maps are (1, C, H, W). Tokens are (1, S, C), or (1, C, 1, S) in the form of the Neural
Engine; `linear` and `layer_norm` distinguish them by rank. Networks compute in `Ops.dtype`. What is
a workaround of one format stays in its implementation.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from ..common.errors import WeightsError
from .compression import Compressed, compress
from .weights import Weights

AttentionForm = Literal["sdpa", "matmul", "split_einsum"]
# a value of the format, which has a `shape`: MIL's Var, Core AI's Value
Tensor: TypeAlias = Any

LAYER_NORM_EPS = 1e-5


class Ops(ABC):
    """The operations of one format, for one program.

    format: as messages name it. form: of the attention. dtype: of weights and feature maps.
    """

    format: str

    def __init__(self, form: AttentionForm, dtype: type[np.floating] = np.float16) -> None:
        self.form: AttentionForm = form
        self.dtype = dtype

    # With weights of a checkpoint.

    def conv(
        self,
        x: Tensor,
        weights: Weights,
        stride: int = 1,
        pad: tuple[int, int, int, int] | None = None,
        bias: np.ndarray | None = None,
        equal_inputs: bool = False,
    ) -> Tensor:
        """Convolve in 2-D with the kernel of a checkpoint.

        pad: top, bottom, left, right; the default keeps the size at stride 1. bias: float32,
        replaces the checkpoint's bias. equal_inputs: x has one channel that stands for all of the
        kernel's.
        """
        kernel = weights.float32("weight")
        if equal_inputs:
            kernel = kernel.sum(axis=1, keepdims=True)
        around = kernel.shape[-1] // 2
        return self.convolve(
            x,
            self.stored(kernel, weights),
            weights.bias() if bias is None else bias,
            pad or (around,) * 4,
            weights.label,
            stride,
        )

    def linear(
        self,
        x: Tensor,
        weights: Weights,
        norm: Weights | None = None,
        rows: slice | None = None,
        label: str = "",
    ) -> Tensor:
        """Apply a linear layer to the channels of tokens.

        norm: the LayerNorm before it, whose weight and bias are folded into this layer's. rows:
        compute only these outputs. label: suffix for the name of such a part.
        """
        kernel, bias = weights.float32("weight"), weights.bias()
        if norm is not None:
            shift = kernel @ norm.float32("bias")
            bias = shift if bias is None else bias + shift
            kernel = kernel * norm.float32("weight")
        if rows is not None:
            kernel, bias = kernel[rows], None if bias is None else bias[rows]
        name = weights.label + label
        if len(x.shape) == 4:
            kernel = kernel[:, :, None, None]
            return self.convolve(x, self.stored(kernel, weights), bias, (0,) * 4, name)
        return self.project(x, self.stored(kernel, weights), bias, name)

    def layer_norm(self, x: Tensor, weights: Weights) -> Tensor:
        """Normalise over the channels of tokens, without weight and bias: `linear` folds them.

        Whether the Neural Engine compiles a program was seen to depend on their values
        (coreai-models#138, ANEForge#149).
        """
        axis = 1 if len(x.shape) == 4 else 2
        return self.normalise(x, axis, LAYER_NORM_EPS, weights.label)

    def stored(self, values: np.ndarray, weights: Weights) -> Tensor | np.ndarray:
        """Return a tensor for the program: an array, or the operation that decompresses it.

        values: float32. The tensor's `Store` sums the compression error.
        """
        rounded = self.rounded(values, weights.name)
        compressed = compress(values, rounded, weights.store.compression)
        if compressed is None:
            return rounded
        weights.store.note_error(compressed.rebuilt, values)
        return self.decompress(compressed)

    def rounded(self, values: np.ndarray, name: str) -> np.ndarray:
        """Round to `dtype`. Raises WeightsError if a result is not finite."""
        with np.errstate(over="ignore"):
            rounded = values.astype(self.dtype)
        if not np.isfinite(rounded).all():
            raise WeightsError(
                f"{name}: holds values that float16 cannot; {self.format} computes in float16, use "
                "`--backend mlx --dtype float32`"
            )
        return rounded

    @abstractmethod
    def convolve(
        self,
        x: Tensor,
        kernel: Tensor | np.ndarray,
        bias: np.ndarray | None,
        pad: tuple[int, int, int, int],
        name: str,
        stride: int = 1,
    ) -> Tensor:
        """Convolve in 2-D with a given kernel, `dtype` (O, I, kH, kW). bias: float32 (O,)."""

    @abstractmethod
    def project(
        self, x: Tensor, kernel: Tensor | np.ndarray, bias: np.ndarray | None, name: str
    ) -> Tensor:
        """Map tokens (1, S, I) to (1, S, O). kernel: `dtype` (O, I). bias: float32 (O,)."""

    @abstractmethod
    def group_norm(self, x: Tensor, weights: Weights, groups: int, eps: float) -> Tensor:
        """Normalise groups of channels of a feature map, with weight and bias."""

    @abstractmethod
    def normalise(self, x: Tensor, axis: int, eps: float, name: str) -> Tensor:
        """Subtract the mean over one axis and divide by the standard deviation."""

    @abstractmethod
    def decompress(self, compressed: Compressed) -> Tensor:
        """Return the operation that decompresses a tensor when the program is loaded."""

    # Attention.

    def to_tokens(self, x: Tensor, form: AttentionForm | None = None) -> Tensor:
        """Reshape (1, C, H, W) to (1, S, C), or to (1, C, 1, S) for split_einsum.

        form: by default that of the program.
        """
        _, channels, height, width = x.shape
        if (form or self.form) == "split_einsum":
            return self.reshape(x, (1, channels, 1, height * width))
        return self.transpose(self.reshape(x, (1, channels, height * width)), (0, 2, 1))

    def from_tokens(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Undo `to_tokens`."""
        return self.reshape(x if len(x.shape) == 4 else self.transpose(x, (0, 2, 1)), shape)

    def prompt_tokens(self, encoder_hidden_states: Tensor) -> Tensor:
        """Return (1, 77, D) in the layout of tokens."""
        if self.form == "split_einsum":
            # (1, D, 1, 77)
            return self.expand_dims(self.transpose(encoder_hidden_states, (0, 2, 1)), 2)
        return encoder_hidden_states

    @abstractmethod
    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        form: AttentionForm | None = None,
    ) -> Tensor:
        """Return softmax(q k^T / sqrt(head_dim)) v for projected tokens.

        form: by default that of the program.
        """

    # Activations and shapes.

    @abstractmethod
    def silu(self, x: Tensor) -> Tensor:
        """Return x * sigmoid(x)."""

    @abstractmethod
    def gelu(self, x: Tensor) -> Tensor:
        """Return the exact GELU, x * Phi(x)."""

    @abstractmethod
    def relu(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def tanh(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def upsample(self, x: Tensor) -> Tensor:
        """Repeat every pixel twice in both directions."""

    @abstractmethod
    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor: ...

    @abstractmethod
    def transpose(self, x: Tensor, axes: Sequence[int]) -> Tensor: ...

    @abstractmethod
    def expand_dims(self, x: Tensor, axis: int) -> Tensor: ...

    @abstractmethod
    def concat(self, values: Sequence[Tensor]) -> Tensor:
        """Join along the channels, axis 1."""

    @abstractmethod
    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split the channels, axis 1, into two."""

    # Arithmetic. A scalar takes the dtype of x.

    @abstractmethod
    def add(self, x: Tensor, y: Tensor, name: str = "") -> Tensor: ...

    @abstractmethod
    def sub(self, x: Tensor, y: Tensor) -> Tensor: ...

    @abstractmethod
    def mul(self, x: Tensor, y: Tensor | np.floating, name: str = "") -> Tensor: ...

    @abstractmethod
    def divide(self, x: Tensor, by: float) -> Tensor:
        """Divide; a multiplication by 1 / 3 is off by 2e-4 in float16."""

    @abstractmethod
    def affine(self, x: Tensor, scale: float = 1, offset: float = 0) -> Tensor:
        """Return scale * x + offset."""

    @abstractmethod
    def round(self, x: Tensor) -> Tensor:
        """Round to whole numbers, halves to even ones."""

    @abstractmethod
    def clip(self, x: Tensor, low: float, high: float, name: str = "") -> Tensor: ...

    @abstractmethod
    def mean(self, x: Tensor, axis: int, name: str = "") -> Tensor:
        """Return the mean along one axis, which stays with length 1."""

    @abstractmethod
    def lower(self, x: Tensor) -> Tensor:
        """Cast to `dtype`, that of the networks."""

    @abstractmethod
    def to_float32(self, x: Tensor, name: str = "") -> Tensor: ...
