"""Change the LoRA scale with every frame: frame times, frames behind, and memory over time.

`python -m sdxs.experiments lora-glide [--changes 1000] [--json PATH]`. The demo in MLX under a LoRA
of random values for its attention. First frames without changes, then with one change a frame.
"""

import gc
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...common.adapt.loras import Lora
from ...common.backend.assembly import with_loras
from ...common.backend.protocol import FrameParams
from ...common.checkpoint.find import find
from ...common.prompt.text_encoder import TextEncoder
from ...common.settings import setting
from ...common.testing.random_lora import Kind, is_attention, layers_of, write_lora
from ...mlx_sdxs.backend import MlxBackend
from ...mlx_sdxs.options import MlxOptions
from .. import record
from ..options import Options, result_file

EVERY = 100  # changes between two looks at the memory


@dataclass(frozen=True, slots=True)
class GlideOptions(Options):
    """Options of this experiment."""

    json: Path | None = result_file()
    changes: int = setting(1000, "changes of the scale, one a frame", minimum=EVERY)
    size: int = setting(64, "side of the picture in pixels", minimum=64)


class Frames:
    """Renders frames, one after the other, and keeps their times."""

    def __init__(self, backend: MlxBackend, size: int) -> None:
        self._backend = backend
        self._frame = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        self._out = np.empty_like(self._frame)
        self.times_ms: list[float] = []
        self.behind: list[bool] = []

    def render(self) -> None:
        """Render one frame. Raises what the backend raises."""
        began = time.perf_counter()
        self._backend.submit(self._frame)
        self.behind.append(self._backend.collect(self._out).behind)
        self.times_ms.append(1000 * (time.perf_counter() - began))

    def figures(self) -> dict[str, float]:
        """Return median and 99th percentile, in ms."""
        median, high = np.percentile(self.times_ms, [50, 99])
        return {"median_ms": round(float(median), 2), "p99_ms": round(float(high), 2)}


def run(options: GlideOptions) -> int:
    """Measure, print, and write."""
    demo = find("demo", download=False)
    with tempfile.TemporaryDirectory() as folder:
        layers = layers_of(
            demo, lambda network, layer: network == "unet" and is_attention(network, layer)
        )
        path = write_lora(Path(folder) / "a.safetensors", layers, Kind(rank=8, size=0.2))
        checkpoint = with_loras(demo, [Lora(path)])
        backend = MlxBackend(checkpoint, MlxOptions(options.size))
        backend.load()
        backend.set_conditioning(TextEncoder(checkpoint).encode("an oil painting"))
        before, during = Frames(backend, options.size), Frames(backend, options.size)
        for _ in range(EVERY):
            before.render()
        memory = []
        for number in range(options.changes):
            scale = 0.5 + 0.5 * float(np.sin(number / 50))
            backend.set_params(FrameParams(lora_scale=scale, later=True))
            during.render()
            if (number + 1) % EVERY == 0:
                gc.collect()
                memory.append([mx.get_active_memory(), _resident_peak()])
        waited = 0
        while not waited or during.behind[-1]:
            during.render()
            waited += 1
        backend.close()
    figures = {
        "layers": len(layers),
        "changes": options.changes,
        "frames": len(during.times_ms),
        "frames_behind": sum(during.behind),
        "frames_until_the_last_was_there": waited,
        "without_changes": before.figures(),
        "with_changes": during.figures(),
        "memory": {"columns": ["mlx active bytes", "peak resident bytes"], "rows": memory},
    }
    print(figures)
    if options.json:
        record.write(options.json, figures, options)
    return 0


def _resident_peak() -> int:
    """Return the largest resident size so far, in bytes; Linux counts kilobytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
