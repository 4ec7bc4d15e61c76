"""Activations and attention in the fastest form for the device.

On a GPU these are MLX's own. On a CPU under Linux MLX computes exp, tanh and erf one value at a
time, 12 to 24 ns each; plain arithmetic takes 0.2 ns per value and pass. The CPU forms are
therefore rational functions and a binary exponent. `tests/test_ops.py` tests their stated errors.
Delete when MLX's CPU build vectorises these functions.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

# Minimax fits by iterated weighted least squares in float64; the highest power has factor 1.
# 1 / (1 + exp(-x)) - 0.5 = x * K * N(x^2) / D(x^2) on |x| <= 14, error 4.5e-7.
_SIGMOID = (
    0.006901975256579081,
    (16284923.734751554, 500852.27170526644, 2317.543480246501),
    (449594.50182730274, 51292.01934342185, 592.12054983921),
)
_SIGMOID_LIMIT = 14.0
# Phi(x) - 0.5 = x * K * N(x^2) / D(x^2) on |x| <= 5.2, Phi the normal distribution function, error
# 6e-8.
_NORMAL = (
    11.63704132946323,
    (68304.07081908052, 8491.088934331527, 944.8818828205822, 53.806437219185234),
    (1992413.5834386775, 579740.0027973467, 74396.6619444375, 5387.01179742913, 224.62828916891587),
)
_NORMAL_LIMIT = 5.2
# 2^f = 0.00957 (f^2 + b f + c)(f^2 + d f + e) on |f| <= 1/2, relative error 2.6e-6; the factor
# cancels in a softmax.
_EXP2 = ((0.7988619761883058, 13.094681464403083), (5.0441132439208705, 7.97973064303157))
# 1.5 * 2^23: adding it rounds a float32 to an integer, held in the low bits
_ROUND = 12582912.0
_LEAST_EXPONENT = -126.0
_CACHED_SCORES = 1 << 18  # float32 values, 1 MB


def on_gpu() -> bool:
    """Tell whether MLX computes on Metal or CUDA."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)


def on_cuda() -> bool:
    """Tell whether MLX computes on CUDA."""
    return on_gpu() and mx.cuda.is_available()


class _Stepwise(threading.local):
    on = False


_stepwise = _Stepwise()


@contextmanager
def stepwise() -> Iterator[None]:
    """Make `settle` evaluate its argument at once, in this thread.

    MLX queues about a hundred operations over all threads. One whole frame fills the queue, and the
    cores of the other threads idle (docs/results/levers.json compares). Step by step, operands are
    also still in the cache. Only CPU forms call `settle`, so a GPU sees no change.
    """
    before, _stepwise.on = _stepwise.on, True
    try:
        yield
    finally:
        _stepwise.on = before


def settle(x: mx.array) -> mx.array:
    """Return x, evaluated if this thread is in `stepwise`."""
    if _stepwise.on:
        mx.eval(x)
    return x


def silu(x: mx.array) -> mx.array:
    """Return x / (1 + exp(-x)); on a CPU float32 only, with an error within 1e-6 of |x|."""
    return nn.silu(x) if on_gpu() else settle(x * _odd_rational(x, _SIGMOID, _SIGMOID_LIMIT))


def gelu(x: mx.array) -> mx.array:
    """Return x * Phi(x), the exact GELU; on a CPU float32 only, error within 5e-7 of |x|."""
    return nn.gelu(x) if on_gpu() else settle(x * _odd_rational(x, _NORMAL, _NORMAL_LIMIT))


def attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Return softmax(q k^T / sqrt(d)) v, (B, heads, M, d).

    q: (B, heads, M, d); k, v: (B, heads, N, d).
    """
    scale = q.shape[-1] ** -0.5
    if on_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
    # one head and a block of queries at a time: the scores stay in the cache (levers.json)
    rows = max(1, _CACHED_SCORES // k.shape[2])
    cuts = range(rows, q.shape[2], rows)
    heads = []
    for one in zip(*(mx.split(x, x.shape[1], axis=1) for x in (q, k, v)), strict=True):
        pieces = mx.split(one[0] * (scale * math.log2(math.e)), cuts, axis=2)
        heads.append(
            mx.concatenate([settle(_softmax_product(piece, *one[1:])) for piece in pieces], axis=2)
        )
    return settle(mx.concatenate(heads, axis=1))


def _softmax_product(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Return softmax(q k^T ln 2) v.

    The keys are the rows of the scores: MLX reduces over that axis three times as fast.
    """
    scores = k @ q.swapaxes(-1, -2)  # (B, 1, N, M)
    weights = _exp2_times_constant(scores - mx.max(scores, axis=-2, keepdims=True))
    total = mx.sum(weights, axis=-2, keepdims=True).swapaxes(-1, -2)  # (B, 1, M, 1)
    return (weights.swapaxes(-1, -2) @ v) / total


def _odd_rational(
    x: mx.array, fit: tuple[float, Sequence[float], Sequence[float]], limit: float
) -> mx.array:
    """Return 0.5 + x K N(x^2) / D(x^2), with x clipped to [-limit, limit]."""
    factor, numerator, denominator = fit
    x = mx.clip(x, -limit, limit)
    s = x * x
    return x * _monic(s, numerator) / _monic(s, denominator) * factor + 0.5


def _monic(s: mx.array, coefficients: Sequence[float]) -> mx.array:
    """Return s^n + c[n-1] s^(n-1) + ... + c[0] by Horner's rule."""
    total = s + coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = total * s + coefficient
    return total


@mx.custom_function
def _exp2_times_constant(t: mx.array) -> mx.array:
    """Return C * 2^t for float32 t <= 0, C = 104.5; relative error 3e-6, at least C * 2^-126."""
    t = mx.maximum(t, _LEAST_EXPONENT)
    rounded = t + _ROUND
    f = t - (rounded - _ROUND)  # in [-1/2, 1/2]
    (b, c), (d, e) = _EXP2
    mantissa = ((f + b) * f + c) * ((f + d) * f + e)
    # add the integer part to the float's exponent bits
    exponent = mx.left_shift(rounded.view(mx.int32), 23)
    return (mantissa.view(mx.int32) + exponent).view(mx.float32)


@_exp2_times_constant.vjp
def _exp2_gradient(t: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    """Return the gradient of 2^t: training needs it, and a bit view has none."""
    return cotangent * output * math.log(2)
