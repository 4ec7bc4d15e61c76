"""Measure what each optimisation of the CUDA frame gains: alone, and taken away in the end.

`MLX_USE_CUDA_GRAPHS=0 python -m sdxs.experiments gpu-levers --model PATH [--json PATH]`.
Time of the GPU's kernels by tracing, and of frames by the clock: two in flight from one thread,
which the host limits, and batches of four on two threads, which the GPU limits. Then larger
batches, as the backend would run them by itself. Needs CUDA and the `parity` extra, whose PyTorch
traces.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...common.checkpoint.find import Checkpoint, find
from ...common.settings import parse_settings, setting
from ...mlx_sdxs import frame
from ...mlx_sdxs.backend import MlxBackend
from ...mlx_sdxs.fast import host_memory as residency
from ...mlx_sdxs.networks import layers
from ...mlx_sdxs.options import MlxOptions
from .. import record
from ..options import Options, option, result_file
from .kernel_time import kernels
from .levers import Patch, gains, patched

Setting = tuple[str, str]
HOST_BOUND: tuple[Setting, ...] = (("lanes", "1"), ("depth", "2"))
GPU_BOUND: tuple[Setting, ...] = (("lanes", "2"), ("batch", "4"))
BATCHES: tuple[tuple[Setting, ...], ...] = tuple(
    (("lanes", lanes), ("batch", batch), ("depth", depth), ("attention", "fused"))
    for lanes, batch, depth in (
        ("2", "4", "12"),
        ("2", "8", "24"),
        ("2", "16", "48"),
        ("1", "16", "32"),
    )
)
DTYPE = "float16"
WINDOWS, WINDOW_S = 3, 0.5


def _as_a_view(tensor: mx.array, dtype: mx.Dtype) -> mx.array:
    return (tensor.transpose(0, 2, 3, 1) if tensor.ndim == 4 else tensor).astype(dtype)


def _unfolded(self: frame.Frame, prompt: bool = False) -> frame.Frame:
    """In place of `Frame.fold`: the timestep stays an input, a prompt its hidden states."""
    return self


# What stands in for each lever: patches and settings. Folding comes without the folded attention,
# which builds on it.
WITHOUT: dict[str, tuple[tuple[Patch, ...], tuple[Setting, ...]]] = {
    "convolutions' weights laid out once": (((layers, "laid_out", _as_a_view),), ()),
    "norm, SiLU and bias in one kernel": ((), (("kernels", "off"),)),
    "pictures kept in the host's memory": (((residency, "keep_on_host", lambda array: None),), ()),
    "timestep, prompt, and q, k, v folded": (((frame.Frame, "fold", _unfolded),), ()),
    "cross-attention in two products": ((), (("attention", "fused"),)),
}
ON: tuple[Setting, ...] = (("kernels", "on"), ("attention", "folded"))


def measure_one(
    checkpoint: Checkpoint,
    size: int,
    lacking: Sequence[str],
    settings: Sequence[Setting],
    trace: bool,
) -> dict[str, object]:
    """Time one variant: ms of a frame per window, and on demand its kernels."""
    patches = [patch for lever in lacking for patch in WITHOUT[lever][0]]
    chosen = (
        dict(ON)
        | dict(settings)
        | {name: value for lever in lacking for name, value in WITHOUT[lever][1]}
    )
    with patched(patches):
        backend = MlxBackend(
            checkpoint, parse_settings(MlxOptions, chosen, "mlx", size=size, dtype=DTYPE)
        )
        backend.load()
        pictures = list(
            np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
        )
        out, windows = np.empty_like(pictures[0]), []
        for number in range(backend.depth):
            backend.submit(pictures[number % len(pictures)])
        for window in range(WINDOWS + 1):  # the first warms up
            frames, began = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - began) < WINDOW_S:
                backend.collect(out)
                backend.submit(pictures[number % len(pictures)])
                number, frames = number + 1, frames + 1
            windows += [1e3 * elapsed / frames] if window else []
        for _ in range(backend.depth):
            backend.collect(out)
        traced = kernels(backend, size) if trace else {}
        backend.close()
    return {"ms": [round(ms, 3) for ms in windows], **traced}


def measure(checkpoint: Checkpoint, size: int) -> dict[str, object]:
    every = tuple(WITHOUT)
    tried = {
        "plain port": every,
        "all levers": (),
        **{f"only {lever}": tuple(other for other in every if other != lever) for lever in every},
        **{f"without {lever}": (lever,) for lever in every},
    }
    del tried["only cross-attention in two products"]  # without folding there is no such thing
    rows: dict[str, dict[str, object]] = {}
    for name, lacking in tried.items():
        host, gpu = (
            measure_one(checkpoint, size, lacking, s, trace)
            for s, trace in ((HOST_BOUND, True), (GPU_BOUND, False))
        )
        rows[name] = {
            "kernel_ms": host["kernel_ms"],
            "launches": host["launches"],
            "two in flight, ms": host["ms"],
            "batches of four, ms": gpu["ms"],
        }
        print(name, rows[name], flush=True)
    batches = []
    for settings in BATCHES:
        made = measure_one(checkpoint, size, (), settings, False)
        batches.append({**dict(settings), **made})
        print(batches[-1], flush=True)
    figures = ("kernel_ms", "two in flight, ms", "batches of four, ms")
    return {
        "model": checkpoint.name,
        "size": size,
        "rows": rows,
        "batches": batches,
        "gains": {
            figure: gains(
                {name: np.atleast_1d(row[figure]).tolist() for name, row in rows.items()}, every
            )
            for figure in figures
        },
    }


@dataclass(frozen=True, slots=True)
class GpuLeversOptions(Options):
    """Which checkpoint, at which size."""

    model: str = option(MISSING, "a checkpoint, by name or folder", str)
    size: int | None = setting(
        None, "side of the picture", minimum=8, unit="pixels", shown="the model's own"
    )
    json: Path | None = result_file()


def run(options: GpuLeversOptions) -> None:
    """Measure every variant on this GPU."""
    checkpoint = find(options.model, download=False)
    found = measure(checkpoint, options.size or checkpoint.frame.size)
    print(json.dumps(found["gains"], indent=1))
    if options.json:
        figures = {
            "device": str(mx.device_info().get("device_name", "")),
            "mlx": mx.__version__,
            **found,
        }
        record.write(options.json, figures, options)
