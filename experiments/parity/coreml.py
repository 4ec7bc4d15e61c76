"""Run the saved Core ML programs through the interpreter, rounding results to float16.

What both `make parity` (against live diffusers) and the tests (against stored outputs) do, without
torch. The interpreter is not Core ML: it shows that the program computes the right thing, not what
Core ML makes of it.
"""

import tempfile
from pathlib import Path

import numpy as np

from ...common.backend.schedule import seeded_noise
from ...common.checkpoint.find import Checkpoint
from ...common.picture.size import FrameSize
from ...common.prompt.text_encoder import TextEncoder
from ...coreml_backend.interpreter.interpreter import Interpreter
from ...coreml_backend.options import Variant
from ...coreml_backend.program import build
from ...mac_check.fixtures import Arrays, Inputs, distances

X0_LIMIT = (
    5e-3  # relative L2 against diffusers in float32: float16 networks, errors of eps times 14.6
)
PICTURE_LIMIT_DB = 50.0
MLX_LIMIT_DB = 45.0  # against the MLX backend


def run_program(checkpoint: Checkpoint, inputs: Inputs, attention: str = "sdpa") -> Arrays:
    """Build the whole-frame program and render `inputs.frame`, as `fixtures.run_frame` in MLX.

    Returns x0, float32 (1, H/8, W/8, C), and picture, uint8 (H, W, 3).
    """
    size, vae = FrameSize.of_picture(inputs.frame), checkpoint.vae
    noise = seeded_noise(inputs.seed, *size.divided(vae.reduction), vae.latent_channels).transpose(
        0, 3, 1, 2
    )
    return predict(
        checkpoint,
        Variant(size, attention, "float32"),
        {
            "picture": inputs.frame.transpose(2, 0, 1)[None].astype(np.float32),
            "encoder_hidden_states": TextEncoder(checkpoint).encode(inputs.prompt),
            "noise": np.ascontiguousarray(noise),
            "previous": np.zeros(noise.shape, np.float32),
            "feedback": np.zeros(1, np.float32),
        },
    )


def predict(checkpoint: Checkpoint, variant: Variant, feeds: Arrays) -> Arrays:
    """Build a whole-frame program and interpret it, every result rounded to float16.

    Returns x0, float32 (1, H/8, W/8, C), and picture, uint8 (H, W, 3).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.mlpackage"
        build(checkpoint, variant, path)
        made = Interpreter(path, round_float16=True).predict(feeds)
    picture = np.ascontiguousarray(made["image"][0].transpose(1, 2, 0)).astype(np.uint8)
    return {"x0": made["x0"].transpose(0, 2, 3, 1), "picture": picture}


def agrees(ours: Arrays, oracle: Arrays) -> bool:
    """Whether the program is as close to diffusers as float16 can be expected to be."""
    relative, quality = distances(ours, oracle)
    return relative < X0_LIMIT and quality > PICTURE_LIMIT_DB
