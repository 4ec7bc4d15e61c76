"""How long the GPU's kernels of one frame take, whatever the host does: by CUDA's own tracing,
through PyTorch's profiler.

`python -m sdxs.experiments.measure.kernel_time --model PATH [--mode compile+graph] [--json PATH]`
measures PyTorch in one of its modes; `gpu_levers` measures MLX the same way, in a process of its
own. Needs CUDA and the `parity` extra.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from ...common.backend.protocol import Backend
from ...common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ...common.checkpoint.find import find
from ...experiments.peers.options import TorchOptions

FRAMES = 10


def kernels(backend: Backend, size: int) -> dict[str, float]:
    """Milliseconds of kernels and number of launches of one frame, copies and fills counted; the
    backend is warm.
    """
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


def main() -> None:
    """Measure, show, add to the results: scripts may print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--size", type=int)
    parser.add_argument("--mode", default="compile+graph")
    parser.add_argument("--json", type=Path, help="a file of gpu_levers, to which the row is added")
    options = parser.parse_args()
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
        content = json.loads(options.json.read_text(encoding="utf-8"))
        content["torch"] = [*content.get("torch", []), row]
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
