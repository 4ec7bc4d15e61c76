"""MLX on Metal: parity, frame times, the custom kernel, Winograd, attention of padded heads."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..common.checkpoint.find import open_checkpoint
from ..coreml_backend.gate import MOST_PSNR_DB
from ..mlx_sdxs.backend import MlxBackend
from ..mlx_sdxs.fast.ops import on_gpu
from ..mlx_sdxs.options import Dtype, MlxOptions
from . import kernel
from .coreml import nearness, overflow, render, spread
from .fixtures import (
    SHAPES,
    TINY,
    distances,
    draw_inputs,
    inputs_of,
    run_frame,
    tiny_checkpoint,
    tiny_inputs,
)
from .kernel import microseconds
from .setup import Answer, Setup
from .stored import stored_outputs

METAL_LIMITS = (5e-3, 45.0)  # of float16 on Metal against diffusers: relative L2 of x0, PSNR in dB
# heads of DreamShaper at 512: (head dim, heads, queries, keys), and the widths to pad to
HEADS = (
    (160, 8, 256, 256, (192, 256)),
    (160, 8, 256, 77, (192, 256)),
    (80, 8, 1024, 1024, (96, 128)),
    (40, 8, 4096, 4096, (64,)),
    (40, 8, 4096, 77, (64,)),
)


def _dtype() -> Dtype:
    return "float16" if on_gpu() else "float32"


def _device() -> Answer:
    return {"device": str(mx.default_device()), "dtype": _dtype()}


def ask_parity(setup: Setup) -> Answer:
    """Compare MLX with stored outputs of diffusers: x0 and the picture of tiny checkpoints."""
    stored, answers = stored_outputs(), []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("sdxs-512-0.9", "sdxs-512-dreamshaper"):
            given = open_checkpoint(tiny_checkpoint(Path(folder), name))
            for label in ("frame", *(f"frame {size}" for size in SHAPES[given.size_multiple])):
                ours = run_frame(given, inputs_of(label, tiny_inputs(given)), _dtype())
                relative, quality = distances(
                    ours, {what: stored[f"{name}/{label}/{what}"] for what in ("x0", "picture")}
                )
                good = relative < METAL_LIMITS[0] and quality > METAL_LIMITS[1]
                figures = {"x0_relative_l2": relative, "psnr_db": min(quality, MOST_PSNR_DB)}
                named = f"{name} tiny{label.removeprefix('frame')}"
                answers.append({"model": named, "ok": good, **figures})
    good = all(answer["ok"] for answer in answers)
    return {"ok": good, **_device(), "models": answers}


def ask_frame(setup: Setup) -> Answer:
    """Render the probe frame in a session's backend: nearness to the exact picture, and times."""
    checkpoint = setup.checkpoint()
    backend = MlxBackend(checkpoint, MlxOptions(setup.frame, dtype=_dtype()))
    backend.load()
    picture, intervals, _ = render(backend, checkpoint, setup.frame, setup.frames)
    backend.close()
    return {**nearness(picture, setup), **_device(), "frame_ms": spread(intervals[1:])}


def ask_overflow(setup: Setup) -> Answer:
    """Let one frame overflow: Metal's reductions and comparisons must see NaN for what it is."""
    checkpoint = setup.checkpoint()
    backend = MlxBackend(checkpoint, MlxOptions(setup.frame, dtype=_dtype()))
    backend.load()
    answer = overflow(backend, checkpoint, setup.frame)
    backend.close()
    return {**answer, **_device()}


def ask_winograd(setup: Setup) -> Answer:
    """Compare a frame in float16 with float32 under the MLX_CONV_WINOGRAD of this process."""
    checkpoint = setup.checkpoint()
    inputs = draw_inputs(checkpoint, replace(TINY, frame=setup.frame), seed=20)
    half, exact = (run_frame(checkpoint, inputs, dtype) for dtype in (_dtype(), "float32"))
    relative, quality = distances(half, exact)
    backend = MlxBackend(checkpoint, MlxOptions(setup.frame, dtype=_dtype()))
    backend.load()
    _, intervals, _ = render(backend, checkpoint, setup.frame, setup.frames)
    backend.close()
    figures = {"x0_relative_l2": relative, "psnr_db": quality, "frame_ms": spread(intervals[1:])}
    return {"ok": True, **_device(), **figures}


def ask_kernel(setup: Setup) -> Answer:
    """The custom kernel in Metal against its twin; where it passes, `--kernels on` may be used."""
    if not on_gpu():
        return {"ok": True, "asked": False, "note": "no GPU here: nothing was compiled"}
    shapes = kernel.compare()
    return {"ok": all(shape["ok"] for shape in shapes), "shapes": shapes}


def ask_heads(setup: Setup) -> Answer:
    """Time MLX's attention with heads as they are, and padded with zeros."""
    return {"ok": True, **_device(), "heads": [_heads(*each) for each in HEADS]}


def _heads(width: int, heads: int, queries: int, keys: int, pads: tuple[int, ...]) -> Answer:
    generator = np.random.default_rng(width)
    if not on_gpu():  # a rehearsal
        queries, keys = min(queries, 64), min(keys, 64)
    dtype = mx.float16 if on_gpu() else mx.float32

    def normal(tokens: int) -> mx.array:
        return mx.array(generator.standard_normal((1, heads, tokens, width), np.float32))

    q, k, v = normal(queries), normal(keys), normal(keys)

    def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=width**-0.5)

    exact = attend(q, k, v)
    forms: dict[str, Callable[[], mx.array]] = {}
    for padded in (width, *pads):
        wide = [(0, 0)] * 3 + [(0, padded - width)]
        given = [mx.pad(x.astype(dtype), wide) for x in (q, k, v)]
        mx.eval(given)
        forms[str(padded)] = lambda given=given: attend(*given)[..., :width]  # type: ignore[misc]
    return {
        "head_dim": width,
        "tokens": [queries, keys],
        "us": {name: microseconds(form) for name, form in forms.items()},
        "error": {name: _relative(form(), exact) for name, form in forms.items()},
    }


def _relative(made: mx.array, exact: mx.array) -> float:
    return float(mx.linalg.norm(made.astype(mx.float32) - exact) / mx.linalg.norm(exact))
