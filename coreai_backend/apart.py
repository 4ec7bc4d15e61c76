"""What calls Core AI before a session, as functions for a child process (`prepare.py`)."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from ..common.backend.gate import PROBE_SEED, probe, probe_edges
from ..common.backend.programs import Progress
from ..common.backend.protocol import FrameParams
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError
from ..common.system import macos_build
from .cache import Built
from .options import CoreAIOptions, Unit, has_framework

# Relative L2 of x0 between a unit and the CPU. Rounding to float16 alone moves x0 of demo-sketch by
# 8e-2; the gate holds the picture to MLX besides.
SELF_CHECK_LIMIT = 0.2


def build(checkpoint: Checkpoint, options: CoreAIOptions, folder: Path, report: Progress) -> float:
    """Write the program, and what the package's own runtime opens; see `program.build`."""
    from .private import compile_for_linux
    from .program import build as write

    built = Built(folder)
    error = write(checkpoint, options.variant(), built.source(options.stage), report)
    if not has_framework():
        report("compile", 0.9)
        built.compiled(options.stage).mkdir()
        compile_for_linux(built.source(options.stage), built.compiled(options.stage))
    return error


def render_probe(
    built: Built, checkpoint: Checkpoint, options: CoreAIOptions, report: Progress
) -> np.ndarray:
    """Render the gate's probe frame, uint8 (H, W, 3). Raises BackendError."""
    image = rendered_probe(built, checkpoint, options, options.used_unit)["image"]
    return np.ascontiguousarray(image)


def rendered_probe(
    built: Built, checkpoint: Checkpoint, options: CoreAIOptions, unit: Unit
) -> dict[str, np.ndarray]:
    """Render the probe frame on one unit; returns copies of all outputs."""
    from .runner import Runner

    runner = Runner(built, checkpoint, options, unit)
    try:
        picture, encoder_hidden_states = probe(checkpoint, options.size)
        runner.set_conditioning(encoder_hidden_states)
        runner.set_params(FrameParams(PROBE_SEED, control_scale=float(options.control)))
        made = runner.run(picture, probe_edges(picture))
        return {name: each.copy() for name, each in made.items()}
    finally:
        runner.close()


def check_unit(
    built: Built, checkpoint: Checkpoint, options: CoreAIOptions, report: Progress
) -> float:
    """Compare x0 of a compute unit with that of the CPU; return the relative L2.

    On some units float16 was silently wrong (coreai-torch#115). Raises BackendError.
    """
    report(f"check {options.used_unit} against the CPU", 1.0)
    x0 = [
        rendered_probe(built, checkpoint, options, unit)["x0"]
        for unit in (options.used_unit, "cpu")
    ]
    off = float(np.linalg.norm(x0[0] - x0[1]) / np.linalg.norm(x0[1]))
    if not off <= SELF_CHECK_LIMIT:
        raise BackendError(
            f"coreai: on {options.used_unit} the latents of a probe frame are {off:.1%} off those "
            f"of the CPU, expected at most {SELF_CHECK_LIMIT:.0%}; use another --coreai-unit, "
            "--dtype float32 or --backend mlx"
        )
    with suppress(OSError):  # a folder that takes no mark is checked each time
        built.mark(options.stage, options.used_unit, macos_build()).write_text(f"{off:.3g}")
    return off
