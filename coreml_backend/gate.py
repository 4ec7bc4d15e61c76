"""Before a built program is accepted: a probe frame through it against a reference that shares none of its code."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.checkpoint import Checkpoint
from ..common.config import PROMPT_TOKENS
from ..common.errors import BackendError
from ..common.image import to_square_rgb
from ..common.schedule import seeded_noise
from ..common.sink import save_image
from ..common.source import Synthetic
from ..common.temporal import psnr
from .cache import Built
from .options import CoreMLOptions

if TYPE_CHECKING:
    from .backend import Reference

LEAST_PSNR_DB = 35.0
PROBE_SEED = 7


def check(checkpoint: Checkpoint, options: CoreMLOptions, package: Path, reference: "Reference", folder: Path) -> float:
    """Return the PSNR in dB of a probe frame between program and reference.

    Under 35 dB both pictures are saved into `folder` and BackendError is raised.
    """
    from .backend import open_model

    picture, states = probe(checkpoint, options.size)
    side = options.size // checkpoint.vae.reduction
    noise = seeded_noise(PROBE_SEED, side, side, checkpoint.vae.latent_channels)
    model = open_model(Built(package.parent, ""), options)
    outputs = model.predict({
        "picture": picture.transpose(2, 0, 1)[None].astype(np.float32),
        "encoder_hidden_states": states,
        "noise": np.ascontiguousarray(noise.transpose(0, 3, 1, 2)),
        "previous": np.zeros((1, *noise.transpose(0, 3, 1, 2).shape[1:]), np.float32),
        "feedback": np.zeros((1,), np.float32),
    })
    built = outputs["image"].reshape(3, options.size, options.size).transpose(1, 2, 0)
    expected = reference(picture, states, PROBE_SEED)
    quality = psnr(np.ascontiguousarray(built).astype(np.uint8), expected)
    if not quality >= LEAST_PSNR_DB:
        names = [folder / f"refused-{checkpoint.name}-{what}.png" for what in ("program", "reference")]
        save_image(names[0], np.ascontiguousarray(built).astype(np.uint8))
        save_image(names[1], expected)
        raise BackendError(
            f"coreml: the program built for {checkpoint.name} renders a probe frame at {quality:.1f} dB from the "
            f"reference, expected at least {LEAST_PSNR_DB:.0f}; it is not used; compare {names[0]} and {names[1].name}"
        )
    return quality


def probe(checkpoint: Checkpoint, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A test card and random conditioning: uint8 (S, S, 3), float32 (1, 77, D)."""
    picture = np.empty((size, size, 3), np.uint8)
    to_square_rgb(Synthetic(size).read(), picture)
    generator = np.random.Generator(np.random.PCG64(PROBE_SEED))
    width = checkpoint.unet.cross_attention_dim
    return picture, generator.standard_normal((1, PROMPT_TOKENS, width), dtype=np.float32)
