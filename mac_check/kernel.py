"""Compare the custom GroupNorm kernel with its twin in plain MLX, on the GPU at hand.

Both are held to float32 of the plain
form; times are of a chain of launches, the host's part included.
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
LIMITS = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}  # relative L2
REPEATS = 50


def compare() -> list[dict[str, object]]:
    """Every shape in every dtype: relative errors with a shift, of the kernel's and MLX's own
    form, and microseconds.
    """
    return [_compared(shape, name) for name in LIMITS for shape in SHAPES]


def _compared(shape: tuple[int, int, int, int], name: str) -> dict[str, object]:
    pictures, side, channels, groups = shape
    dtype, generator = getattr(mx, name), np.random.default_rng(channels)

    def normal(*sizes: int) -> mx.array:
        return mx.array(generator.standard_normal(sizes, dtype=np.float32))

    x = (5 + 2 * normal(pictures, side, side, channels) + 3 * normal(channels)).astype(dtype)
    weight, bias, shift = (normal(channels).astype(dtype) for _ in range(3))

    def norm(kind: mx.Dtype) -> GroupNorm:
        made = GroupNorm(groups, channels, 1e-5)
        made.weight, made.bias = weight.astype(kind), bias.astype(kind)
        return made

    exact = norm(mx.float32).then_silu(x.astype(mx.float32) + shift.astype(mx.float32))
    own, kernel = norm(dtype), KernelGroupNorm(norm(dtype), shift)
    forms: dict[str, Callable[[], mx.array]] = {
        "kernel": lambda: kernel.then_silu(x),
        "own": lambda: own.then_silu(x + shift),
    }
    errors = {form: _relative(call(), exact) for form, call in forms.items()}
    plain = _relative(KernelGroupNorm(norm(dtype))(x), norm(mx.float32)(x.astype(mx.float32)))
    return {
        "shape": list(shape),
        "dtype": name,
        "ok": max(errors["kernel"], plain) < LIMITS[name],
        "error": errors,
        "error_without_activation": plain,
        "us": {form: _microseconds(call) for form, call in forms.items()},
    }


def _relative(made: mx.array, exact: mx.array) -> float:
    return float(mx.linalg.norm(made.astype(mx.float32) - exact) / mx.linalg.norm(exact))


def _microseconds(call: Callable[[], mx.array]) -> float:
    mx.eval(call())
    began = time.perf_counter()
    mx.eval([call() for _ in range(REPEATS)])
    return round((time.perf_counter() - began) / REPEATS * 1e6, 1)
