"""Measure what the ControlNet adds to a frame: FLOPs counted, and frame time without and with.

`python -m sdxs.experiments control-cost [--json PATH] [--rounds 3] [--sizes 512]`. Random
weights in the published layouts: neither figure depends on their values. FLOPs are 2 per
multiply-add of convolutions, linears and attention products; the rest is under 1 %.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...common.backend.protocol import FrameParams
from ...common.checkpoint.config.unet import UNetConfig
from ...common.checkpoint.find import Checkpoint
from ...common.checkpoint.layout import Layout, controlnet_layout, parameter_count, unet_layout
from ...common.settings import setting
from ...common.testing.random_checkpoint import architecture
from ...mlx_sdxs.backend import MlxBackend
from ...mlx_sdxs.options import MlxOptions
from .. import record
from ..options import Options, option, result_file
from ..parity.control import tiny_controlled, write_controlled

NAME = "sdxs-512-dreamshaper"


def network_flops(layout: Layout, unet: UNetConfig, side: int) -> float:
    """FLOPs of one pass at latents of `side`, each tensor at the resolution of its block."""
    total = 0.0
    for name, shape in layout.items():
        if not name.endswith(".weight") or len(shape) == 1 or "time_emb" in name:
            continue  # norms, and what folds into constants
        pixels = _side(name, unet, side) ** 2
        inner = name.rpartition(".to_")[0]
        # A prompt's keys and values are computed once, in 0.9 those of some attn1, too.
        of_prompt = (
            ".attn2" in name
            or layout.get(f"{inner}.to_k.weight", shape)[1]
            != layout.get(f"{inner}.to_q.weight", shape)[1]
        )
        if of_prompt and ".to_" in name and name.endswith(("to_k.weight", "to_v.weight")):
            continue
        total += 2.0 * pixels * np.prod(shape, dtype=float)
        if name.endswith("to_q.weight"):  # scores, and values weighted by them
            total += 4.0 * pixels * (77 if of_prompt else pixels) * shape[0]
    return total


def _side(name: str, unet: UNetConfig, side: int) -> int:
    """Height of the feature map a tensor's outputs have."""
    last = len(unet.block_out_channels) - 1
    parts = name.split(".")
    if parts[0] == "down_blocks":
        return side >> (int(parts[1]) + (parts[2] == "downsamplers"))
    if parts[0] == "mid_block" or name.startswith("controlnet_mid_block"):
        return side >> last
    if parts[0] == "up_blocks":
        return side >> (last - int(parts[1]) - (parts[2] == "upsamplers"))
    if parts[0] == "controlnet_down_blocks":
        return side >> _skip_levels(unet)[int(parts[1])]
    if parts[0] == "controlnet_cond_embedding":
        if parts[1] == "conv_in":
            return 8 * side
        return side if parts[1] == "conv_out" else 8 * side >> ((int(parts[2]) + 1) // 2)
    return side


def _skip_levels(unet: UNetConfig) -> list[int]:
    levels, last = [0], len(unet.block_out_channels) - 1
    for i in range(last + 1):
        levels += [i] * unet.layers_per_block[i] + ([i + 1] if i < last else [])
    return levels


def frame_ms(checkpoint: Checkpoint, size: int, rounds: int) -> dict[str, dict[str, object]]:
    """Time a frame without a ControlNet, at scale 0 and under control, in interleaved rounds."""
    from dataclasses import replace

    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
    edges = (255 * (generator.random((size, size)) < 0.1)).astype(np.uint8)
    out = np.empty_like(picture)
    times: dict[str, list[float]] = {"no ControlNet": [], "scale 0": [], "scale 1": []}
    backends = {
        name: MlxBackend(given, MlxOptions(size))
        for name, given in (
            ("no ControlNet", replace(checkpoint, control=None)),
            ("scale 0", checkpoint),
        )
    }
    for backend in backends.values():
        backend.load()
    for number in range(rounds + 1):
        for case, kept in times.items():
            backend = backends["no ControlNet" if case == "no ControlNet" else "scale 0"]
            backend.set_params(FrameParams(control_scale=float(case == "scale 1")))
            began = time.perf_counter()
            backend.submit(picture, edges)
            backend.collect(out)
            if number:  # the first of each warms up
                kept.append(1e3 * (time.perf_counter() - began))
    for backend in backends.values():
        backend.close()
    return {
        case: {"median_ms": float(np.median(kept)), "raw_ms": kept} for case, kept in times.items()
    }


@dataclass(frozen=True, slots=True)
class ControlCostOptions(Options):
    """Which sizes, and how often."""

    json: Path | None = result_file()
    rounds: int = setting(3, "times that each frame is measured, in turns", minimum=1)
    sizes: tuple[int, ...] = option((512,), "sides of the picture in pixels", int, count="+")
    tiny: bool = setting(False, "a tenth of the width, to try the experiment")


def run(options: ControlCostOptions) -> None:
    """Count and measure at every size."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = (
            tiny_controlled(Path(folder), NAME)
            if options.tiny
            else write_controlled(Path(folder), NAME, architecture(NAME), 1)
        )
        assert checkpoint.control is not None
        control, unet = controlnet_layout(checkpoint.control.config), unet_layout(checkpoint.unet)
        for size in options.sizes:
            row = {
                "size": size,
                "control_parameters": parameter_count(control),
                "unet_parameters": parameter_count(unet),
                "control_gflop": network_flops(control, checkpoint.control.config.unet, size // 8)
                / 1e9,
                "unet_gflop": network_flops(unet, checkpoint.unet, size // 8) / 1e9,
                "frame": frame_ms(checkpoint, size, options.rounds),
            }
            rows.append(row)
            print(row, flush=True)
    if options.json:
        figures = {"dtype": "float32", "model": NAME, "weights": "random", "rows": rows}
        record.write(options.json, figures, options)
