"""Blends and slerps of prompts: exact at the ends, smooth between, never too short."""

import itertools

import numpy as np
import pytest

from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.prompt.blend import Slerp, along, blend, combine, ease
from sdxs.common.prompt.syntax import Part, parse_prompt
from sdxs.common.prompt.text_encoder import TextEncoder


def draw(seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((1, 77, 64), dtype=np.float32)


A, B, C = draw(1), 3 * draw(2), draw(3)


def lengths(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, axis=-1)


def test_slerp_is_exact_at_the_ends_and_outside() -> None:
    way = Slerp(A, B)
    for t, expected in ((0, A), (-1, A), (1, B), (2, B)):
        np.testing.assert_array_equal(way(t), expected)


def test_slerp_turns_evenly_and_its_lengths_go_straight() -> None:
    way = Slerp(A, B)
    steps = [way(t) for t in np.linspace(0, 1, 11)]
    units = [x / lengths(x)[..., None] for x in steps]
    angles = [np.arccos(np.clip((u * v).sum(-1), -1, 1)) for u, v in itertools.pairwise(units)]
    np.testing.assert_allclose(
        angles, np.broadcast_to(np.mean(angles, axis=0), np.shape(angles)), atol=2e-3
    )
    np.testing.assert_allclose(lengths(steps[5]), (lengths(A) + lengths(B)) / 2, rtol=1e-4)
    assert all(x.dtype == np.float32 and x.shape == A.shape for x in steps)


@pytest.mark.parametrize(
    "end",
    [A.copy(), A * 2, -A, np.zeros_like(A), A + np.float32(1e-7)],
    ids=["same", "parallel", "opposite", "zero", "close"],
)
def test_slerp_without_a_great_circle_goes_straight(end: np.ndarray) -> None:
    middle = Slerp(A, end)(0.5)
    assert np.isfinite(middle).all()
    np.testing.assert_allclose(middle, (A + end) / 2, atol=1e-5)


def test_blends_have_the_lengths_of_their_parts() -> None:
    mixed = blend([A, B], [1, 3])
    np.testing.assert_allclose(lengths(mixed), 0.25 * lengths(A) + 0.75 * lengths(B), rtol=1e-5)
    plain = 0.25 * A + 0.75 * B
    np.testing.assert_allclose(
        (mixed * plain).sum(-1) / lengths(mixed) / lengths(plain), 1, atol=1e-6
    )
    assert (lengths(plain) < 0.99 * lengths(mixed)).all()  # what a plain mean would lose
    np.testing.assert_array_equal(blend([A, B], [2, 6]), mixed)
    np.testing.assert_array_equal(blend([A], [1]), A)
    assert np.isfinite(blend([A, -A], [1, 1])).all()


def test_a_bank_passes_through_every_stop() -> None:
    for position, expected in ((0, A), (1, B), (2, C)):
        np.testing.assert_array_equal(along([A, B, C], position), expected)
    np.testing.assert_array_equal(along([A, B, C], 1.5), Slerp(B, C)(0.5))


def test_only_the_texts_that_matter_are_encoded() -> None:
    asked: list[str] = []

    def encode(part: Part) -> np.ndarray:
        asked.append(part.text)
        return {"a": A, "b": B, "c": C}[part.text]

    np.testing.assert_array_equal(
        combine(parse_prompt("a >> b >> c @ 1.5"), encode), Slerp(B, C)(0.5)
    )
    assert asked == ["b", "c"]
    np.testing.assert_array_equal(
        combine(parse_prompt("(a:1) and (b:3)"), encode), blend([A, B], [1, 3])
    )


def test_the_encoder_understands_blends_and_banks(tiny_sdxs: Checkpoint) -> None:
    encoder = TextEncoder(tiny_sdxs)
    cat, dog = encoder.encode("a cat"), encoder.encode("a dog")
    np.testing.assert_array_equal(
        encoder.encode("(a cat:1) and (a dog:2)"), blend([cat, dog], [1, 2])
    )
    np.testing.assert_array_equal(encoder.encode("a cat >> a dog @ 0.5"), Slerp(cat, dog)(0.5))
    np.testing.assert_array_equal(encoder.encode("a cat >> a dog"), cat)


def test_easing_starts_and_ends_at_rest() -> None:
    values = [ease(t) for t in np.linspace(-0.1, 1.1, 121)]
    assert values[0] == 0 and values[-1] == 1 and ease(0.5) == 0.5
    steps = np.diff(values)
    assert (
        (steps >= 0).all()
        and steps.max() <= 1.51 * 0.01
        and steps[10] < 0.001
        and steps[-11] < 0.001
    )
