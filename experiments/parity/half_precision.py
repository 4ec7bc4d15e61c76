"""Measure what half precision costs: x0 and picture in float16, bfloat16 and float32.

`python -m sdxs.experiments half-precision [--models demo demo-sketch] [--size 256] [--json
PATH]`. The plain networks with MLX's own activations, norms and attention, as a GPU runs them,
nothing folded, on MLX's default device. On a CPU that is slow, and its kernels round elsewhere
than a GPU's: good for the size of the error, not for its last digit. Random weights of SDXS'
layout come from `random_checkpoint.py`.
"""

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...common.backend.schedule import frame_steps, seeded_noise
from ...common.checkpoint.find import Checkpoint, find
from ...common.picture.temporal import psnr
from ...common.prompt.text_encoder import TextEncoder
from ...common.settings import setting
from ...mlx_sdxs.backend import load_vae
from ...mlx_sdxs.frame import Frame
from ...mlx_sdxs.networks.layers import load_weights
from ...mlx_sdxs.networks.unet import UNet2DConditionModel
from .. import record
from ..distill.material.demo_clip import FOLDER
from ..distill.material.photographs import centre_square, read
from ..measure.levers import without
from ..options import Options, option, result_file

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
PROMPT = "an oil painting"
FLOAT32_ONLY = (
    "SiLU and GELU as rational functions",
    "softmax by a binary exponent, head by head",
    "group statistics as products",
)


def render(
    checkpoint: Checkpoint, picture: np.ndarray, dtype: mx.Dtype
) -> tuple[np.ndarray, np.ndarray]:
    """x0, float32 (1, S/8, S/8, C), and picture, uint8 (S, S, 3)."""
    unet = UNet2DConditionModel(checkpoint.unet)
    load_weights(unet, checkpoint.unet_weights, dtype)
    vae = load_vae(checkpoint.vae, checkpoint.vae_weights, dtype)
    frame = Frame(
        unet,
        vae,
        frame_steps(checkpoint.scheduler, checkpoint.frame),
        checkpoint.vae.scaling_factor,
        dtype,
    )
    side = picture.shape[0] // checkpoint.vae.reduction
    noise = mx.array(seeded_noise(0, side, side, checkpoint.vae.latent_channels))
    x0 = frame.denoise(
        frame.encode(mx.array(picture)),
        frame.prompt(mx.array(TextEncoder(checkpoint).encode(PROMPT))),
        noise,
    )
    return np.array(x0), np.array(frame.decode(x0))


def judge(checkpoint: Checkpoint, size: int) -> dict[str, object]:
    """Errors of both half precisions against float32."""
    picture = centre_square(read(FOLDER / "astronaut.jpg"), size)
    exact, shown = render(checkpoint, picture, mx.float32)
    row: dict[str, object] = {
        "model": checkpoint.name,
        "size": size,
        "timestep": checkpoint.frame.timestep,
        "device": str(mx.default_device()),
        "values at 0 or 255": round(float(np.isin(shown, (0, 255)).mean()), 3),
    }
    for name in ("float16", "bfloat16"):
        x0, made = render(checkpoint, picture, DTYPES[name])
        away = np.linalg.norm((x0 - exact).astype(np.float64)) / np.linalg.norm(
            exact.astype(np.float64)
        )
        row[name] = {
            "x0 relative L2": float(f"{away:.3g}"),
            "picture dB": round(float(psnr(made, shown)), 1),
        }
    return row


@dataclass(frozen=True, slots=True)
class HalfPrecisionOptions(Options):
    """Which checkpoints, at which size."""

    models: tuple[str, ...] = option(
        ("demo", "demo-sketch"), "checkpoints, by name or folder", str, count="+"
    )
    size: int = setting(256, "side of the picture", minimum=8, unit="pixels")
    json: Path | None = result_file()


def run(options: HalfPrecisionOptions) -> None:
    """Render every model in every dtype."""
    rows = []
    with without(FLOAT32_ONLY):
        for model in options.models:
            rows.append(judge(find(model, download=False), options.size))
            print(rows[-1], flush=True)
    if options.json:
        record.write(options.json, {"prompt": PROMPT, "rows": rows}, options)
