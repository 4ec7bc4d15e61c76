"""Render a frame with a Core AI program on Apple's runtime, for comparison with diffusers.

What both `make parity` (against live diffusers) and the tests (against stored outputs) do, without
torch. The runtime is Apple's own, on the CPU: it shows that the program computes the right thing,
not what a GPU or the Neural Engine makes of it.
"""

import tempfile
from pathlib import Path

import numpy as np

from ...common.backend.schedule import seeded_noise
from ...common.checkpoint.find import Checkpoint
from ...common.picture.size import FrameSize
from ...common.prompt.text_encoder import TextEncoder
from ...coreai_backend.options import Variant, function_of
from ...coreai_backend.program import STATE, build
from ...coreai_backend.single_function import call
from ...graphs.ops import AttentionForm
from ...mac_check.fixtures import Arrays, Inputs

# relative L2 of x0, and dB of the picture, against diffusers in float32
LIMITS = {"float32": (2e-6, 80.0), "float16": (2e-3, 52.0)}


def run_program(
    checkpoint: Checkpoint,
    inputs: Inputs,
    dtype: str = "float32",
    attention: AttentionForm = "split_einsum",
) -> Arrays:
    """Build the whole-frame program and render `inputs.frame`, as `fixtures.run_frame` in MLX.

    Returns x0, float32 (1, H/8, W/8, C), and picture, uint8 (H, W, 3).
    """
    size, vae = FrameSize.of_picture(inputs.frame), checkpoint.vae
    noise = seeded_noise(inputs.seed, *size.divided(vae.reduction), vae.latent_channels)
    planes = np.ascontiguousarray(noise.transpose(0, 3, 1, 2))
    given = {
        "picture": np.ascontiguousarray(inputs.frame),
        "encoder_hidden_states": TextEncoder(checkpoint).encode(inputs.prompt),
        "noise": planes,
        "feedback": np.zeros(1, np.float32),
    }
    return predict(checkpoint, Variant((size,), attention, dtype), given)


def predict(checkpoint: Checkpoint, variant: Variant, given: Arrays) -> Arrays:
    """Build a program and run it once, without an earlier frame.

    Returns x0, float32 (1, H/8, W/8, C), and picture, uint8 (H, W, 3).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.aimodel"
        build(checkpoint, variant, path)
        state = {STATE: np.zeros_like(given["noise"])}
        made = call(path, given, state, function_of(variant.sizes[0]))
    return {"x0": made["x0"].transpose(0, 2, 3, 1), "picture": made["image"]}
