"""Run the Core AI programs on Apple's runtime, as a session does.

What both `make parity` (against live diffusers) and the tests (against stored outputs) do, without
torch. Away from macOS 27 this is the runtime of Apple's package, on one CPU core: it shows what the
program computes, and nothing of the GPU's or the Neural Engine's rounding or speed.
"""

import tempfile
from pathlib import Path

import numpy as np

from ...common.backend.protocol import FrameParams
from ...common.checkpoint.find import Checkpoint
from ...common.picture.size import FrameSize
from ...common.prompt.text_encoder import TextEncoder
from ...coreai_backend import apart
from ...coreai_backend.cache import Built
from ...coreai_backend.options import CoreAIOptions
from ...coreai_backend.runner import Runner
from ...mac_check.fixtures import Arrays, Inputs, distances
from .control import ControlInputs

# relative L2 of x0, which multiplies errors of eps by 14.6, and PSNR of the picture in dB
LIMITS = {"float32": (2e-6, 80.0), "float16": (2e-3, 52.0)}


def run_program(
    checkpoint: Checkpoint, inputs: Inputs, attention: str = "split_einsum", dtype: str = "float32"
) -> Arrays:
    """Build the whole-frame program and render `inputs.frame`, as `fixtures.run_frame` in MLX.

    Returns x0, float32 (1, H/8, W/8, C), and picture, uint8 (H, W, 3).
    """
    options = CoreAIOptions(FrameSize.of_picture(inputs.frame), dtype=dtype, attention=attention)
    encoder_hidden_states = TextEncoder(checkpoint).encode(inputs.prompt)
    params = FrameParams(inputs.seed)
    return render(checkpoint, options, inputs.frame, encoder_hidden_states, params)


def run_control_program(
    checkpoint: Checkpoint, inputs: ControlInputs, seed: int, scale: float, dtype: str = "float32"
) -> Arrays:
    """Render one frame under control, as `run_program`. seed: of the noise of `inputs`."""
    options = CoreAIOptions(FrameSize.of_picture(inputs.picture), dtype=dtype, control=True)
    params = FrameParams(seed, control_scale=scale)
    given = (inputs.picture, inputs.encoder_hidden_states, params, inputs.edges)
    return render(checkpoint, options, *given)


def render(
    checkpoint: Checkpoint,
    options: CoreAIOptions,
    picture: np.ndarray,
    encoder_hidden_states: np.ndarray,
    params: FrameParams,
    edges: np.ndarray | None = None,
) -> Arrays:
    """Build a program in a temporary folder and render one frame; returns as `run_program`.

    edges: uint8 (H, W), for options with `control`.
    """
    with tempfile.TemporaryDirectory() as folder:
        built = Built(Path(folder))
        apart.build(checkpoint, options, built.folder, lambda step, done: None)
        runner = Runner(built, checkpoint, options, options.used_unit)
        try:
            runner.set_conditioning(encoder_hidden_states)
            runner.set_params(params)
            made = runner.run(picture, edges)
            return {"x0": made["x0"].transpose(0, 2, 3, 1).copy(), "picture": made["image"].copy()}
        finally:
            runner.close()


def agrees(ours: Arrays, oracle: Arrays, dtype: str = "float32") -> bool:
    """Tell whether the program is as close to the oracle as its dtype allows."""
    (relative, quality), (most, least) = distances(ours, oracle), LIMITS[dtype]
    return relative < most and quality > least
