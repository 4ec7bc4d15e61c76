"""Activations, attention and norm statistics in the form that is fastest on the device at hand.

On a GPU these are MLX's own. On a CPU under Linux MLX computes exp, tanh and erf one value at a
time (12 to 24 ns each), while plain arithmetic takes 0.2 ns a value and pass, so the CPU forms are
rational functions and a binary exponent. Each stays within the error named beside it, tested in
`tests/test_ops.py`. Can go when MLX's CPU build computes these functions on vectors.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

# Minimax fits made for this file (iterated weighted least squares, float64), highest power's
# factor 1. 1 / (1 + exp(-x)) - 0.5 = x * K * N(x^2) / D(x^2) on |x| <= 14, error 4.5e-7.
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
# 1.5 * 2^23: adding it rounds a float32 to an integer, which then stands in its low bits
_ROUND = 12582912.0
_LEAST_EXPONENT = -126.0
_CACHED_SCORES = 1 << 18  # float32 values, 1 MB


def on_gpu() -> bool:
    """Whether MLX computes on Metal or CUDA here."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)


def on_cuda() -> bool:
    """Whether MLX computes on CUDA here."""
    return on_gpu() and mx.cuda.is_available()


class _Stepwise(threading.local):
    on = False


_stepwise = _Stepwise()


@contextmanager
def stepwise() -> Iterator[None]:
    """Compute at once, in this thread, whatever `settle` is given.

    MLX lets about a hundred operations wait, of all threads together; whoever evaluates a whole
    frame fills that up and the other threads' cores stand still (docs/results/levers.json has
    both). What is computed step by step also finds its operands in the cache. Only the forms for a
    CPU settle anything: on a GPU this changes nothing.
    """
    before, _stepwise.on = _stepwise.on, True
    try:
        yield
    finally:
        _stepwise.on = before


def settle(x: mx.array) -> mx.array:
    """Return x, computed if its thread goes step by step."""
    if _stepwise.on:
        mx.eval(x)
    return x


def silu(x: mx.array) -> mx.array:
    """x / (1 + exp(-x)). On a CPU float32, within 1e-6 of |x|."""
    return nn.silu(x) if on_gpu() else settle(x * _odd_rational(x, _SIGMOID, _SIGMOID_LIMIT))


def gelu(x: mx.array) -> mx.array:
    """x * Phi(x), the exact form with erf. On a CPU float32, within 5e-7 of |x|."""
    return nn.gelu(x) if on_gpu() else settle(x * _odd_rational(x, _NORMAL, _NORMAL_LIMIT))


def attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Return softmax(q k^T / sqrt(d)) v, (B, heads, M, d).

    q: (B, heads, M, d); k, v: (B, heads, N, d).
    """
    scale = q.shape[-1] ** -0.5
    if on_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
    # Head by head, in pieces whose scores stay in the cache through the passes
    # (docs/results/levers.json).
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

    Keys run down the columns: MLX reduces over rows three times as fast.
    """
    scores = k @ q.swapaxes(-1, -2)  # (B, 1, N, M)
    weights = _exp2_times_constant(scores - mx.max(scores, axis=-2, keepdims=True))
    total = mx.sum(weights, axis=-2, keepdims=True).swapaxes(-1, -2)  # (B, 1, M, 1)
    return (weights.swapaxes(-1, -2) @ v) / total


def _odd_rational(
    x: mx.array, fit: tuple[float, Sequence[float], Sequence[float]], limit: float
) -> mx.array:
    """0.5 + x K N(x^2) / D(x^2), with x kept within the limit."""
    factor, numerator, denominator = fit
    x = mx.clip(x, -limit, limit)
    s = x * x
    return x * _monic(s, numerator) / _monic(s, denominator) * factor + 0.5


def _monic(s: mx.array, coefficients: Sequence[float]) -> mx.array:
    """s^n + c[n-1] s^(n-1) + ... + c[0] by Horner's rule."""
    total = s + coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = total * s + coefficient
    return total


@mx.custom_function
def _exp2_times_constant(t: mx.array) -> mx.array:
    """C * 2^t for float32 t <= 0, C = 104.5; relative error 3e-6, 0 becomes C * 2^-126."""
    t = mx.maximum(t, _LEAST_EXPONENT)
    rounded = t + _ROUND
    f = t - (rounded - _ROUND)  # in [-1/2, 1/2]
    (b, c), (d, e) = _EXP2
    mantissa = ((f + b) * f + c) * ((f + d) * f + e)
    # The integer part, shifted into the exponent's place and added to the exponent that is there.
    exponent = mx.left_shift(rounded.view(mx.int32), 23)
    return (mantissa.view(mx.int32) + exponent).view(mx.float32)


@_exp2_times_constant.vjp
def _exp2_gradient(t: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    """Give 2^t its derivative: a view of bits has none of its own, and training needs one."""
    return cotangent * output * math.log(2)
