"""On the demo checkpoint a prompt decides the style, recognisably, on photographs it was not trained on.

A style is read off the change from camera to output (colour, contrast, sharpness), never off the
picture itself, and classified by the nearest of ten centres measured on another photograph.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.backend import BackendOptions
from sdxs.common.checkpoint import Checkpoint
from sdxs.common.opencv import cv2
from sdxs.common.prompts import GALLERY
from sdxs.common.text_encoder import TextEncoder
from sdxs.mlx_sdxs.backend import MlxBackend

PHOTOGRAPHS = Path(__file__).parent.parent / "docs" / "demo"
SIZE = 128
PROMPTS = GALLERY


def corners(name: str) -> list[np.ndarray]:
    """Four overlapping squares of a photograph, uint8 (128, 128, 3) RGB."""
    photograph = cv2.cvtColor(cv2.imread(str(PHOTOGRAPHS / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
    height, width = photograph.shape[:2]
    side = int(min(height, width) * 0.7)
    return [
        cv2.resize(photograph[y : y + side, x : x + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        for y in (0, height - side) for x in (0, width - side)
    ]


def measure(picture: np.ndarray) -> np.ndarray:
    """Mean and spread of L, a, b; mean chroma; detail at three scales, on a log scale."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    values = [*lab.mean(axis=(0, 1)), *np.log1p(lab.std(axis=(0, 1))), np.log1p(np.hypot(lab[..., 1], lab[..., 2]).mean())]
    level = lab[..., 0]
    for _ in range(3):
        values.append(np.log(np.abs(cv2.Laplacian(level, cv2.CV_32F)).mean() + 0.1))
        level = cv2.pyrDown(level)
    return np.array(values)


@pytest.fixture(scope="module")
def changes(demo: Checkpoint) -> Iterator[dict[str, np.ndarray]]:
    """For each photograph: (corners, prompts, features)."""
    backend, encoder = MlxBackend(demo, BackendOptions(SIZE)), TextEncoder(demo)
    backend.load()
    prompts = [encoder.encode(prompt) for prompt in PROMPTS]
    found = {}
    for name in ("cat", "astronaut", "coffee"):
        rows = []
        for camera in corners(name):
            row = []
            for states in prompts:
                out = np.empty_like(camera)
                backend.set_conditioning(states)
                backend.submit(camera)
                backend.collect(out)
                row.append(measure(out) - measure(camera))
            rows.append(row)
        found[name] = np.array(rows)
    yield found
    backend.close()


def nearest(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Index of the nearest style centre of `reference` (corners, prompts, features), in units of its spread."""
    centres = reference.mean(axis=0)
    spread = np.sqrt(reference.var(axis=0).mean(axis=0)) + 1e-3
    return (((features[..., None, :] - centres) / spread) ** 2).sum(axis=-1).argmin(axis=-1)


def test_style_of_held_out_photographs_is_the_one_asked_for(changes: dict[str, np.ndarray]) -> None:
    held_out = np.concatenate([changes["astronaut"], changes["coffee"]])
    right = nearest(held_out, changes["cat"]) == np.arange(len(PROMPTS))
    # 79 % was measured on this checkpoint, chance is 10 %; oil, anime and pop art are its weak styles
    assert right.mean() >= 0.7, dict(zip(PROMPTS, right.mean(axis=0), strict=True))
    strong = [i for i, name in enumerate(PROMPTS) if name not in ("an oil painting", "anime style", "pop art")]
    assert right[:, strong].mean() >= 0.9


def test_shuffled_prompts_fail_the_same_measure(changes: dict[str, np.ndarray]) -> None:
    held_out = np.concatenate([changes["astronaut"], changes["coffee"]])
    shuffled = np.roll(np.arange(len(PROMPTS)), 1)
    assert (nearest(held_out, changes["cat"]) == shuffled).mean() <= 0.2
