"""Compare the custom GroupNorm kernel with its twin in plain MLX, on the GPU at hand.

Both are compared with float64 in NumPy: in float32 MLX's own form rounds as much as the kernel
does. Times are of a chain of launches, the host's part included.
"""

import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from ..mlx_sdxs.fast.kernels import KernelGroupNorm
from ..mlx_sdxs.networks.layers import GroupNorm

# (pictures, side, channels, groups): those of SDXS at 512, a batch, and groups of other widths
SHAPES = (
    (1, 64, 320, 32),
    (1, 64, 640, 32),
    (1, 64, 960, 32),
    (1, 32, 640, 32),
    (1, 32, 1920, 32),
    (1, 16, 1280, 32),
    (1, 16, 2560, 32),
    (4, 64, 320, 32),
    (2, 8, 64, 32),
    (1, 64, 128, 16),
)
LIMITS = {"float32": 3e-6, "float16": 1e-3, "bfloat16": 8e-3}  # relative L2
OWN_FACTOR = 2.0  # beyond its limit, the kernel may err this much more than MLX's own form
EPS = 1e-5
REPEATS = 50


def compare() -> list[dict[str, object]]:
    """Compare every shape in every dtype: errors of kernel and own form, and microseconds."""
    return [_compared(shape, name) for name in LIMITS for shape in SHAPES]


def _compared(shape: tuple[int, int, int, int], name: str) -> dict[str, object]:
    pictures, side, channels, groups = shape
    dtype, generator = getattr(mx, name), np.random.default_rng(channels)

    def normal(*sizes: int) -> mx.array:
        return mx.array(generator.standard_normal(sizes, dtype=np.float32))

    x = (5 + 2 * normal(pictures, side, side, channels) + 3 * normal(channels)).astype(dtype)
    weight, bias, shift = (normal(channels).astype(dtype) for _ in range(3))

    def norm() -> GroupNorm:
        made = GroupNorm(groups, channels, EPS)
        made.weight, made.bias = weight, bias
        return made

    own, kernel = norm(), KernelGroupNorm(norm(), shift)
    forms: dict[str, Callable[[], mx.array]] = {
        "kernel": lambda: kernel.then_silu(x),
        "own": lambda: own.then_silu(x + shift),
    }
    inner, added, scale, offset = (_float64(array) for array in (x, shift, weight, bias))
    exact = _silu(_normed(inner + added, scale, offset, groups))
    plain = _normed(inner, scale, offset, groups)
    errors = {form: _relative(call(), exact) for form, call in forms.items()}
    without = {
        "kernel": _relative(KernelGroupNorm(norm())(x), plain),
        "own": _relative(own(x), plain),
    }
    return {
        "shape": list(shape),
        "dtype": name,
        "ok": passes(name, errors) and passes(name, without),
        "error": errors,
        "error_without_activation": without["kernel"],
        "own_error_without_activation": without["own"],
        "us": {form: microseconds(call) for form, call in forms.items()},
    }


def passes(dtype: str, errors: dict[str, float]) -> bool:
    """Tell whether the kernel's error is within its limit, or near that of MLX's own form."""
    return errors["kernel"] <= max(LIMITS[dtype], OWN_FACTOR * errors["own"])


def _normed(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int) -> np.ndarray:
    """GroupNorm of x in float64, (N, H, W, C)."""
    pictures, *_, channels = x.shape
    grouped = x.reshape(pictures, -1, groups, channels // groups)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    centred = centred / np.sqrt(grouped.var((1, 3), keepdims=True) + EPS)
    result: np.ndarray = centred.reshape(x.shape) * weight + bias
    return result


def _silu(x: np.ndarray) -> np.ndarray:
    result: np.ndarray = x / (1 + np.exp(-x))
    return result


def _float64(array: mx.array) -> np.ndarray:
    return np.asarray(array.astype(mx.float32)).astype(np.float64)


def _relative(made: mx.array, exact: np.ndarray) -> float:
    return float(np.linalg.norm(_float64(made) - exact) / np.linalg.norm(exact))


def microseconds(call: Callable[[], mx.array]) -> float:
    """Return the time of one launch in a chain of REPEATS."""
    mx.eval(call())
    began = time.perf_counter()
    mx.eval([call() for _ in range(REPEATS)])
    return round((time.perf_counter() - began) / REPEATS * 1e6, 1)
