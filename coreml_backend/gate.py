"""The gate of Core ML programs: their probe frame, see `common/backend/gate.py`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..common.backend import gate
from ..common.backend.gate import (
    LEAST_PSNR_DB,
    MOST_PSNR_DB,
    PROBE_SEED,
    Reference,
    probe,
    probe_edges,
)
from ..common.backend.protocol import FrameParams
from ..common.checkpoint.find import Checkpoint
from .options import CoreMLOptions
from .runner import Runner

__all__ = ["LEAST_PSNR_DB", "MOST_PSNR_DB", "PROBE_SEED", "Reference", "probe", "probe_edges"]


def render(checkpoint: Checkpoint, runners: Sequence[Runner], options: CoreMLOptions) -> np.ndarray:
    """Render the probe frame by a chain of programs, uint8 (H, W, 3). Raises BackendError."""
    picture, encoder_hidden_states = probe(checkpoint, options.size)
    made: np.ndarray = picture
    for runner in runners:
        runner.set_conditioning(encoder_hidden_states)
        # only a program with a ControlNet has an input for the control scale
        runner.set_params(FrameParams(probe_seed(options), control_scale=1.0))
        made, _ = runner.run(made, probe_edges(picture))
        runner.forget()
    return np.ascontiguousarray(made)


def probe_seed(options: CoreMLOptions) -> int:
    """Return the noise seed of the probe frame: the folded one, or any."""
    return PROBE_SEED if options.noise_seed is None else options.noise_seed


def check(
    checkpoint: Checkpoint,
    rendered: np.ndarray,
    reference: Reference,
    folder: Path,
    options: CoreMLOptions,
) -> float:
    """Return the PSNR in dB between a probe frame by `render` and the reference.

    Below 35 dB it saves both pictures in `folder` and raises BackendError.
    """
    seed = probe_seed(options)
    return gate.check("coreml", checkpoint, rendered, reference, folder, options.size, seed)
