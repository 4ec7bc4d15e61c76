"""The gate: a built program's probe frame against an independent reference.

The reference shares none of the program's code.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..common.backend.protocol import FrameParams
from ..common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError
from ..common.io.sinks.image import save_image
from ..common.io.sources.synthetic import Synthetic
from ..common.picture.edges import Edges
from ..common.picture.image import to_square_rgb
from ..common.picture.temporal import psnr
from .runner import Runner

LEAST_PSNR_DB = 35.0
MOST_PSNR_DB = 99.0  # equal pictures have no PSNR, and a JSON file no infinity
PROBE_SEED = 7

# Renders a probe frame by other means: picture uint8 (S, S, 3), prompt float32 (1, 77, D), seed of
# the noise -> picture.
Reference = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def check(
    checkpoint: Checkpoint,
    size: int,
    runners: Sequence[Runner],
    reference: Reference,
    folder: Path,
    seed: int,
) -> float:
    """Return the PSNR in dB of a probe frame between the programs in a row and the reference.

    Under 35 dB both pictures are saved into `folder` and BackendError is raised.
    """
    picture, states = probe(checkpoint, size)
    built: np.ndarray = picture
    for runner in runners:
        runner.set_conditioning(states)
        # Only a program under control has a place for it.
        runner.set_params(FrameParams(seed, control_scale=1.0))
        built, _ = runner.run(built, probe_edges(picture))
        runner.forget()
    expected = reference(picture, states, seed)
    quality = min(psnr(np.ascontiguousarray(built), expected), MOST_PSNR_DB)
    if not quality >= LEAST_PSNR_DB:
        names = [
            folder / f"refused-{checkpoint.name}-{what}.png" for what in ("program", "reference")
        ]
        save_image(names[0], np.ascontiguousarray(built))
        save_image(names[1], expected)
        raise BackendError(
            f"coreml: the program built for {checkpoint.name} renders a probe frame "
            f"at {quality:.1f} dB from the reference, expected at least {LEAST_PSNR_DB:.0f}; it is "
            f"not used; compare {names[0]} and {names[1].name}"
        )
    return quality


def probe_edges(picture: np.ndarray) -> np.ndarray:
    """The edges that a program with a ControlNet is checked with, uint8 (S, S)."""
    edges = np.empty(picture.shape[:2], np.uint8)
    Edges("canny", picture.shape[0]).draw(picture, edges)
    return edges


def probe(checkpoint: Checkpoint, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A test card and random conditioning: uint8 (S, S, 3), float32 (1, 77, D)."""
    picture = np.empty((size, size, 3), np.uint8)
    to_square_rgb(Synthetic(size).read(), picture)
    generator = np.random.Generator(np.random.PCG64(PROBE_SEED))
    width = checkpoint.unet.cross_attention_dim
    return picture, generator.standard_normal((1, PROMPT_TOKENS, width), dtype=np.float32)
