"""Measure the GPU's kernel time of one frame through PyTorch's profiler.

CUDA's own tracing counts it, whatever the host does.
`python -m sdxs.experiments kernel-time --model PATH [--mode compile+graph] [--json PATH]`
measures PyTorch in one of its modes; `gpu_levers` measures MLX the same way, in a process of its
own. Needs CUDA and the `parity` extra.
"""

import json
from dataclasses import MISSING, dataclass
from pathlib import Path

import numpy as np

from ...common.backend.protocol import Backend
from ...common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ...common.checkpoint.find import find
from ...common.settings import setting
from .. import record
from ..options import Options, option
from ..peers.options import TorchOptions

FRAMES = 10


def kernels(backend: Backend, size: int) -> dict[str, float]:
    """Trace one warm frame: ms of kernels and number of launches, copies and fills included."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = np.empty_like(picture)
    torch.zeros(1, device="cuda")  # the profiler wants CUDA started
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(FRAMES):
            backend.submit(picture)
            backend.collect(out)
        torch.cuda.synchronize()
    times = [event.device_time for event in found.events() if event.device_time]
    return {
        "kernel_ms": round(sum(times) / FRAMES / 1e3, 3),
        "launches": round(len(times) / FRAMES, 1),
    }


@dataclass(frozen=True, slots=True)
class KernelTimeOptions(Options):
    """Which checkpoint, in which of PyTorch's modes."""

    model: str = option(MISSING, "a checkpoint, by name or folder", str)
    size: int | None = setting(
        None, "side of the picture", minimum=8, unit="pixels", shown="the model's own"
    )
    mode: str = setting("compile+graph", "the mode in which PyTorch runs")
    json: Path | None = option(
        None, "a file of gpu-levers, to which the row is added", use="written"
    )


def run(options: KernelTimeOptions) -> None:
    """Measure PyTorch and add the row to the results."""
    from ..peers.torch_backend import TorchBackend

    checkpoint = find(options.model, download=False)
    size = options.size or checkpoint.frame.size
    backend = TorchBackend(checkpoint, TorchOptions(size, dtype="float16", mode=options.mode))
    backend.load()
    backend.set_conditioning(
        np.zeros((1, PROMPT_TOKENS, checkpoint.unet.cross_attention_dim), np.float32)
    )
    row = {
        "backend": f"torch:mode={options.mode}",
        "model": checkpoint.name,
        "size": size,
        **kernels(backend, size),
    }
    backend.close()
    print(row)
    if options.json:
        # The file's own facts stay: they are those of gpu-levers. The row brings this run's.
        content = json.loads(options.json.read_text(encoding="utf-8"))
        content["torch"] = [*content.get("torch", []), row | record.facts(options)]
        record.write(options.json, content, options)
