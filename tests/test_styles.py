"""On the demo checkpoint a prompt decides the style, recognisably, on photographs it was not
trained on.

A rendering has the style whose teacher's picture of the same photograph is nearest (squared
error). A change of mean colour and detail, measured on one photograph and looked for on another,
told the first checkpoint's styles apart; it cannot tell the present ones, because pop art and
woodblock give a place its colour by its brightness and hue: the teachers themselves reached 70 %
by it.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.picture.opencv import cv2
from sdxs.common.prompt.blend import Slerp
from sdxs.common.prompt.syntax import GALLERY
from sdxs.common.prompt.text_encoder import TextEncoder
from sdxs.experiments.distill.material import teachers
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

PHOTOGRAPHS = Path(__file__).parent.parent / "docs" / "demo"
SIZE = 128
PROMPTS = GALLERY


def corners(name: str) -> list[np.ndarray]:
    """Four overlapping squares of a photograph, uint8 (128, 128, 3) RGB."""
    photograph = cv2.cvtColor(cv2.imread(str(PHOTOGRAPHS / f"{name}.jpg")), cv2.COLOR_BGR2RGB)
    height, width = photograph.shape[:2]
    side = int(min(height, width) * 0.7)
    return [
        cv2.resize(
            photograph[y : y + side, x : x + side], (SIZE, SIZE), interpolation=cv2.INTER_AREA
        )
        for y in (0, height - side)
        for x in (0, width - side)
    ]


@pytest.fixture(scope="module")
def errors(demo: Checkpoint) -> Iterator[np.ndarray]:
    """Squared error to every teacher's picture, (pictures, prompts and at last the photograph
    itself, teachers).
    """
    backend, encoder = MlxBackend(demo, MlxOptions(SIZE)), TextEncoder(demo)
    backend.load()
    prompts = [encoder.encode(prompt) for prompt in PROMPTS]
    rows = []
    for camera in [picture for name in ("cat", "astronaut", "coffee") for picture in corners(name)]:
        wanted = np.stack(
            [teachers.render(prompt, camera).astype(np.float32) for prompt in PROMPTS]
        )
        row = []
        for states in prompts:
            out = np.empty_like(camera)
            backend.set_conditioning(states)
            backend.submit(camera)
            backend.collect(out)
            row.append(np.square(wanted - out).mean(axis=(1, 2, 3)))
        row.append(np.square(wanted - camera).mean(axis=(1, 2, 3)))
        rows.append(row)
    yield np.array(rows)
    backend.close()


def test_style_of_held_out_photographs_is_the_one_asked_for(errors: np.ndarray) -> None:
    right = errors[:, :-1].argmin(axis=2) == np.arange(len(PROMPTS))
    assert right.mean() >= 0.95, dict(
        zip(PROMPTS, right.mean(axis=0), strict=True)
    )  # chance is 10 %
    assert right.mean(axis=0).min() >= 0.75, dict(zip(PROMPTS, right.mean(axis=0), strict=True))


def test_a_rendering_is_much_nearer_to_its_teacher_than_the_photograph_is(
    errors: np.ndarray,
) -> None:
    own = 10 * np.log10(255**2 / np.array([errors[:, k, k].mean() for k in range(len(PROMPTS))]))
    photograph = 10 * np.log10(255**2 / errors[:, -1].mean(axis=0))
    said = dict(zip(PROMPTS, own.round(1), strict=True))
    assert (own - photograph).min() >= 3, said  # dB, for each style
    assert own.mean() >= 23, (
        said
    )  # 24.7 was measured, at half the size it was trained for; the photograph has 13


@pytest.mark.parametrize(
    ("one", "other"),
    [("neon cyberpunk city", "anime style"), ("an oil painting", "a pencil sketch")],
)
def test_the_way_between_two_styles_is_even(demo: Checkpoint, one: str, other: str) -> None:
    """Before it was trained on mixtures of prompts the demo jumped: by half of the whole change in
    one of 40 steps.
    """
    backend, encoder, camera = (
        MlxBackend(demo, MlxOptions(SIZE)),
        TextEncoder(demo),
        corners("cat")[0],
    )
    backend.load()
    way, made = Slerp(encoder.encode(one), encoder.encode(other)), []
    for t in np.linspace(0, 1, 21):
        out = np.empty_like(camera)
        backend.set_conditioning(way(float(t)))
        backend.submit(camera)
        backend.collect(out)
        made.append(out.astype(np.float32))
    backend.close()
    steps = [np.abs(a - b).mean() for a, b in pairwise(made)]
    whole = np.abs(made[0] - made[-1]).mean()
    assert whole > 20 and max(steps) < 0.12 * whole, (
        whole,
        np.round(np.array(steps) / whole, 3),
    )  # 0.05 if all are alike


def test_shuffled_prompts_fail_the_same_measure(errors: np.ndarray) -> None:
    shuffled = np.roll(np.arange(len(PROMPTS)), 1)
    assert (errors[:, :-1].argmin(axis=2) == shuffled).mean() <= 0.1
