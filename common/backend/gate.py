"""The gate: compare the probe frame of a built program with an independent reference.

The reference shares no code with the program.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..checkpoint.config.text_encoder import PROMPT_TOKENS
from ..checkpoint.find import Checkpoint
from ..errors import BackendError
from ..io.sinks.image import save_image
from ..io.sources.synthetic import Synthetic
from ..picture.edges import Edges
from ..picture.image import to_frame_rgb
from ..picture.size import FrameSize, Size
from ..picture.temporal import psnr

LEAST_PSNR_DB = 35.0
MOST_PSNR_DB = 99.0  # of equal pictures, because JSON has no infinity
PROBE_SEED = 7

# renders the probe frame: picture uint8 (H, W, 3), encoder_hidden_states float32 (1, 77, D), noise
# seed -> picture
Reference = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def check(
    backend: str,
    checkpoint: Checkpoint,
    rendered: np.ndarray,
    reference: Reference,
    folder: Path,
    size: Size,
    seed: int = PROBE_SEED,
) -> float:
    """Return the PSNR in dB between a rendered probe frame and the reference.

    Below 35 dB it saves both pictures in `folder` and raises BackendError.
    """
    picture, encoder_hidden_states = probe(checkpoint, size)
    expected = reference(picture, encoder_hidden_states, seed)
    quality = min(psnr(rendered, expected), MOST_PSNR_DB)
    if not quality >= LEAST_PSNR_DB:
        names = [
            folder / f"refused-{checkpoint.name}-{what}.png" for what in ("program", "reference")
        ]
        save_image(names[0], rendered)
        save_image(names[1], expected)
        raise BackendError(
            f"{backend}: the program built for {checkpoint.name} renders a probe frame "
            f"at {quality:.1f} dB from the reference, expected at least {LEAST_PSNR_DB:.0f}; it is "
            f"not used; compare {names[0]} and {names[1].name}"
        )
    return quality


def probe_edges(picture: np.ndarray) -> np.ndarray:
    """Return the edges of the probe frame for a program with a ControlNet, uint8 (H, W)."""
    edges = np.empty(picture.shape[:2], np.uint8)
    Edges("canny", FrameSize.of_picture(picture)).draw(picture, edges)
    return edges


def probe(checkpoint: Checkpoint, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return the probe frame, uint8 (H, W, 3), and random encoder_hidden_states (1, 77, D)."""
    picture = np.empty((*FrameSize.of(size).shape, 3), np.uint8)
    to_frame_rgb(Synthetic(size).read(), picture)
    generator = np.random.Generator(np.random.PCG64(PROBE_SEED))
    width = checkpoint.unet.cross_attention_dim
    return picture, generator.standard_normal((1, PROMPT_TOKENS, width), dtype=np.float32)
