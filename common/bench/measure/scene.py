"""Fresh frames to judge a picture by: short clips of a moving, natural-like scene.

Noise of falling octaves, as photographs have it, pans under a turning disc while the light changes.
Every frame bears a number of its own. Clips are seeded: the same for every backend, none of them
like the pictures that are timed, and no frame comes twice.
"""

from collections.abc import Iterator

import numpy as np

from ...io.sources.synthetic import write_counter
from ...picture.opencv import cv2
from ...picture.size import FrameSize, Size

OCTAVES = (3, 6, 12, 24, 48)  # waves across the frame's shorter side
MOST_FRAMES = 1000  # of a clip, for the numbers on the frames
_SEED = 17
_CONTRAST = 46.0  # levels, of the sum's standard deviation


def clip(size: Size, number: int, frames: int) -> Iterator[np.ndarray]:
    """Yield `frames` frames of clip `number`, each new memory, uint8 (H, W, 3) RGB."""
    size = FrameSize.of(size)
    generator = np.random.default_rng([_SEED, number])
    field = _field(size, generator)
    colour = tuple(int(level) for level in generator.integers(0, 256, 3))
    side = min(size.shape)
    step = max(2, side // 32)
    for k in range(frames):
        start = k * step % size.width
        light = 1 + 0.15 * np.sin(0.7 * k)
        window = field[:, start : start + size.width] * np.float32(light)
        frame = np.clip(window, 0, 255).astype(np.uint8)
        centre = (
            round(size.width * (0.5 + 0.3 * np.cos(0.4 * k + number))),
            round(size.height * (0.5 + 0.3 * np.sin(0.4 * k + number))),
        )
        cv2.circle(frame, centre, side // 6, colour, -1, cv2.LINE_AA)
        write_counter(frame, number * MOST_FRAMES + k)
        yield frame


def _field(size: FrameSize, generator: np.random.Generator) -> np.ndarray:
    """Return twice the frame's width of noise that falls off as 1 / frequency, float32 levels."""
    height, width = size.shape[0], 2 * size.shape[1]
    field = np.zeros((height, width, 3), np.float32)
    for waves in OCTAVES:
        rows = max(2, waves * height // min(size.shape))
        across = max(2, waves * width // min(size.shape))
        coarse = generator.standard_normal((rows, across, 3), dtype=np.float32) / waves
        field += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    deviation = float(field.std()) or 1.0
    return (128 + field * (_CONTRAST / deviation)).astype(np.float32)
