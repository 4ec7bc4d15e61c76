"""Elementwise operations, norms, reductions and state of an ML Program, in NumPy.

Parameters have the attribute names and defaults of the MIL operation sets iOS 15 to iOS 18. The
interpreter rejects every attribute that a function does not name. Floats are float32 in and out;
reductions accumulate in float64.
"""

# mypy: disable-error-code="no-any-return"
# NumPy types arithmetic on arrays of any dtype as Any.

import math
from collections.abc import Callable

import numpy as np

from ...common.errors import BackendError

Unary = Callable[[np.ndarray], np.ndarray]
Binary = Callable[[np.ndarray, np.ndarray], np.ndarray]
Result = np.ndarray | list[np.ndarray] | None
Operations = dict[str, Callable[..., Result]]

# erf on a grid of 1/256 up to 6, where it equals 1 in float64
_STEP = 256.0
_ERF = np.array([math.erf(i / _STEP) for i in range(6 * 256 + 2)])
_ERF_SLOPE = np.exp(-((np.arange(len(_ERF)) / _STEP) ** 2)) * (2 / math.sqrt(math.pi) / _STEP)


class State:
    """The state of a program between calls, read and written by name like coremltools' MLState."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self.slots = {name: Slot(value) for name, value in values.items()}

    def read_state(self, name: str) -> np.ndarray:
        return self._slot(name).value.copy()

    def write_state(self, name: str, value: np.ndarray) -> None:
        slot = self._slot(name)
        if value.shape != slot.value.shape:
            raise BackendError(f"state {name!r}: given {value.shape}; expected {slot.value.shape}")
        slot.value = value.astype(slot.value.dtype)

    def _slot(self, name: str) -> "Slot":
        if name not in self.slots:
            raise BackendError(f"no state {name!r}; expected one of {sorted(self.slots)}")
        return self.slots[name]


class Slot:
    """One state variable."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value


def read_state(input: Slot) -> np.ndarray:
    return input.value


def write_state(input: Slot, data: np.ndarray) -> None:
    if data.shape != input.value.shape or data.dtype != input.value.dtype:
        raise ValueError(
            f"{data.dtype} {data.shape} into a state of {input.value.dtype} {input.value.shape}"
        )
    input.value = data


def _elementwise(function: Unary) -> Unary:
    def operation(x: np.ndarray) -> np.ndarray:
        return function(x)

    return operation


def _pairwise(function: Binary) -> Binary:
    def operation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return function(x, y)

    return operation


def erf(x: np.ndarray) -> np.ndarray:
    """Interpolate erf by cubics through its values and slopes; error below 1e-11."""
    flat = x.reshape(-1)
    out = np.empty(flat.size, np.float32)
    for start in range(0, flat.size, 1 << 18):
        part = flat[start : start + (1 << 18)].astype(np.float64)
        at = np.minimum(np.abs(part), 6.0) * _STEP
        with np.errstate(invalid="ignore"):
            index = np.clip(np.nan_to_num(at).astype(np.int64), 0, len(_ERF) - 2)
        t = at - index
        rise = _ERF[index + 1] - _ERF[index]
        first, last = _ERF_SLOPE[index] - rise, rise - _ERF_SLOPE[index + 1]
        y = _ERF[index] + t * (rise + (1 - t) * ((1 - t) * first + t * last))
        out[start : start + (1 << 18)] = np.copysign(y, part)
    return out.reshape(x.shape)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray, mode: str = "EXACT") -> np.ndarray:
    if mode == "EXACT":
        return 0.5 * x * (1 + erf(x * np.float32(math.sqrt(0.5))))
    if mode == "TANH_APPROXIMATION":
        return (
            0.5
            * x
            * (
                1
                + np.tanh(
                    np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
                )
            )
        )
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(np.float32(1.702) * x)
    raise ValueError(f"mode {mode!r}, expected EXACT, TANH_APPROXIMATION or SIGMOID_APPROXIMATION")


def leaky_relu(x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.where(x < 0, x * alpha, x)


def clip(x: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return np.clip(x, alpha, beta)


def rsqrt(x: np.ndarray, epsilon: np.ndarray | float = 1e-12) -> np.ndarray:
    return 1 / np.sqrt(x + np.float32(epsilon))


def inverse(x: np.ndarray, epsilon: np.ndarray | float = 1e-4) -> np.ndarray:
    return 1 / (x + np.float32(epsilon))


def log(x: np.ndarray, epsilon: np.ndarray | float = 1e-45) -> np.ndarray:
    return np.log(x + np.float32(epsilon))


def real_div(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind != "f":
        raise ValueError("a division of integers, expected floats")
    return x / y


def cast(x: np.ndarray, dtype: str) -> np.ndarray:
    """Convert numbers, truncating fractions towards zero.

    Raises ValueError for a value out of range, because Core ML's result is unknown.
    """
    if dtype in ("fp16", "fp32"):
        return x.astype(np.float32)
    if dtype == "bool":
        return x != 0
    if dtype not in ("int8", "uint8", "int16", "uint16", "int32"):
        raise ValueError(f"dtype {dtype!r}")
    limits = np.iinfo(dtype)
    whole = np.trunc(x) if x.dtype.kind == "f" else x.astype(np.int64)
    if not np.all((whole >= limits.min) & (whole <= limits.max)):
        raise ValueError(f"values outside {dtype}, expected {limits.min} to {limits.max}")
    return whole.astype(dtype)


def select(cond: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(cond, a, b)


# Normalisation


def _standardise(x: np.ndarray, axes: tuple[int, ...], epsilon: np.ndarray | float) -> np.ndarray:
    centred = x - x.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    variance = np.square(centred).mean(axis=axes, keepdims=True, dtype=np.float64)
    centred /= np.sqrt(variance + float(epsilon)).astype(np.float32)
    return centred


def _affine(
    x: np.ndarray, gamma: np.ndarray | None, beta: np.ndarray | None, shape: tuple[int, ...]
) -> np.ndarray:
    scaled = x if gamma is None else x * gamma.reshape(shape)
    return scaled if beta is None else scaled + beta.reshape(shape)


def layer_norm(
    x: np.ndarray,
    axes: np.ndarray | None = None,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    epsilon: np.ndarray | float = 1e-5,
) -> np.ndarray:
    over = _axes(axes, x)
    shape = tuple(size if axis in over else 1 for axis, size in enumerate(x.shape))
    return _affine(_standardise(x, over, epsilon), gamma, beta, shape)


def instance_norm(
    x: np.ndarray,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    epsilon: np.ndarray | float = 1e-5,
) -> np.ndarray:
    return _affine(
        _standardise(x, tuple(range(2, x.ndim)), epsilon), gamma, beta, (-1, *[1] * (x.ndim - 2))
    )


def batch_norm(
    x: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    epsilon: np.ndarray | float = 1e-5,
) -> np.ndarray:
    channels = (-1, *[1] * (x.ndim - 2))
    scale = 1 / np.sqrt(variance + np.float32(epsilon))
    return _affine((x - mean.reshape(channels)) * scale.reshape(channels), gamma, beta, channels)


# Reductions


def _axes(axes: np.ndarray | None, x: np.ndarray) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axes is None else tuple(int(axis) % x.ndim for axis in axes)


def reduce_mean(
    x: np.ndarray, axes: np.ndarray | None = None, keep_dims: np.ndarray | bool = False
) -> np.ndarray:
    if x.dtype.kind != "f":
        raise ValueError("a mean of integers, expected floats")
    return np.asarray(x.mean(axis=_axes(axes, x), keepdims=bool(keep_dims), dtype=np.float64))


def reduce_sum(
    x: np.ndarray, axes: np.ndarray | None = None, keep_dims: np.ndarray | bool = False
) -> np.ndarray:
    wide = np.float64 if x.dtype.kind == "f" else np.int64
    return np.asarray(x.sum(axis=_axes(axes, x), keepdims=bool(keep_dims), dtype=wide))


def reduce_sum_square(
    x: np.ndarray, axes: np.ndarray | None = None, keep_dims: np.ndarray | bool = False
) -> np.ndarray:
    return reduce_sum(np.square(x), axes, keep_dims)


def reduce_max(
    x: np.ndarray, axes: np.ndarray | None = None, keep_dims: np.ndarray | bool = False
) -> np.ndarray:
    return np.asarray(x.max(axis=_axes(axes, x), keepdims=bool(keep_dims)))


def reduce_min(
    x: np.ndarray, axes: np.ndarray | None = None, keep_dims: np.ndarray | bool = False
) -> np.ndarray:
    return np.asarray(x.min(axis=_axes(axes, x), keepdims=bool(keep_dims)))


UNARY: dict[str, Unary] = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "erf": erf,
    "exp": np.exp,
    "floor": np.floor,
    "identity": np.asarray,
    "logical_not": np.logical_not,
    "relu": lambda x: np.maximum(x, 0),
    "round": np.round,
    "sigmoid": sigmoid,
    "sign": np.sign,
    "silu": lambda x: x * sigmoid(x),
    "sin": np.sin,
    "softplus": lambda x: np.logaddexp(x, np.float32(0)),
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
}
BINARY: dict[str, Binary] = {
    "add": np.add,
    "equal": np.equal,
    "floor_div": np.floor_divide,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mod": np.mod,
    "mul": np.multiply,
    "not_equal": np.not_equal,
    "pow": np.power,
    "real_div": real_div,
    "sub": np.subtract,
}
OPS: Operations = {name: _elementwise(function) for name, function in UNARY.items()}
OPS |= {name: _pairwise(function) for name, function in BINARY.items()}
OPS |= {
    function.__name__: function
    for function in (
        batch_norm,
        cast,
        clip,
        gelu,
        instance_norm,
        inverse,
        layer_norm,
        leaky_relu,
        log,
        read_state,
        reduce_max,
        reduce_mean,
        reduce_min,
        reduce_sum,
        reduce_sum_square,
        rsqrt,
        select,
        write_state,
    )
}
