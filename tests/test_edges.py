"""Edges: their place, their steadiness on a noisy still picture, and their response to motion."""

import numpy as np
import pytest

from sdxs.common.errors import UsageError
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.picture.edges import CANNY, KINDS, Edges, f_score
from sdxs.common.picture.image import to_frame_rgb
from sdxs.common.picture.opencv import cv2

SIZE = 128


def scene(shift: int = 0) -> np.ndarray:
    """A bright square and a disc on grey, `shift` pixels to the right."""
    picture = np.full((SIZE, SIZE, 3), 90, np.uint8)
    cv2.rectangle(picture, (20 + shift, 30), (60 + shift, 80), (200, 210, 190), -1)
    cv2.circle(picture, (90, 90), 20, (20, 30, 60), -1)
    return picture


def noisy(picture: np.ndarray, seed: int, sigma: float = 6) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def draw(edges: Edges, picture: np.ndarray) -> np.ndarray:
    out = np.empty(picture.shape[:2], np.uint8)
    edges.draw(picture, out)
    return out


def outline(picture: np.ndarray) -> np.ndarray:
    return cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), *CANNY)


@pytest.mark.parametrize("hysteresis", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_edges_are_white_where_things_end_and_black_elsewhere(kind: str, hysteresis: bool) -> None:
    found = draw(Edges(kind, SIZE, hysteresis), scene())
    assert f_score(found, outline(scene())) > 0.9
    assert found[5:20].max() == 0 and found[55, 40] == 0  # empty ground, inside of the square
    assert found.max() == 255


def test_canny_without_memory_is_opencvs() -> None:
    picture = noisy(scene(), 1)
    np.testing.assert_array_equal(
        draw(Edges("canny", SIZE, hysteresis=False), picture), outline(picture)
    )


def shimmer(kind: str, hysteresis: bool) -> float:
    """Return the share of edge pixels that change between frames of a still, noisy picture."""
    edges, card = Edges(kind, 2 * SIZE, hysteresis), np.empty((2 * SIZE, 2 * SIZE, 3), np.uint8)
    to_frame_rgb(Synthetic(2 * SIZE).read(), card)
    # Texture, where noise decides.
    card[100:, :] = np.random.default_rng(9).integers(80, 120, card[100:].shape)
    frames = [draw(edges, noisy(card, seed)) > 127 for seed in range(12)][4:]
    return float(
        np.mean([(a != b).sum() / b.sum() for a, b in zip(frames[1:], frames[:-1], strict=True)])
    )


def test_memory_holds_edges_still_and_soft_ones_are_stiller() -> None:
    figures = {(kind, memory): shimmer(kind, memory) for kind in KINDS for memory in (False, True)}
    for kind in KINDS:
        assert figures[kind, True] < 0.5 * figures[kind, False], figures
    assert figures["soft", False] < figures["canny", False], figures


@pytest.mark.parametrize("kind", KINDS)
def test_edges_follow_what_moves_and_leave_nothing_behind(kind: str) -> None:
    edges = Edges(kind, SIZE)
    for step in range(12):
        picture = scene(3 * step)
        found = draw(edges, noisy(picture, step))
    assert f_score(found, outline(picture)) > 0.85
    # where the square's left side was five frames ago, inside of the square now
    gone = found[40:70, 20 + 3 * 5 - 2 : 20 + 3 * 5 + 3]
    assert (gone > 127).mean() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_edges_remember_unless_told_otherwise(kind: str) -> None:
    default, remembering, fresh = (
        Edges(kind, SIZE),
        Edges(kind, SIZE, True),
        Edges(kind, SIZE, False),
    )
    for seed in range(3):
        picture = noisy(scene(), seed)
        found = [draw(edges, picture) for edges in (default, remembering, fresh)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()


def test_a_canny_line_that_weakens_stays() -> None:
    """A gradient between the weak thresholds and the strong ones draws no line, but keeps one."""

    def step(levels: int) -> np.ndarray:
        picture = np.full((SIZE, SIZE, 3), 100, np.uint8)
        picture[:, SIZE // 2 :] += np.uint8(levels)
        return picture

    edges = Edges("canny", SIZE)
    strong = draw(edges, step(80))
    assert strong.any() and not draw(Edges("canny", SIZE), step(45)).any()
    np.testing.assert_array_equal(draw(edges, step(45)), strong)
    assert not draw(edges, step(20)).any()


def test_soft_edges_leave_out_what_only_the_fine_scale_sees() -> None:
    """Stripes of three pixels have a gradient at the fine scale and none at the coarse one."""
    picture = np.full((SIZE, SIZE, 3), 88, np.uint8)
    picture[:, np.arange(SIZE) % 6 < 3] = 168
    inside = slice(16, -16)  # the border mirrors the stripes
    assert draw(Edges("canny", SIZE), picture)[:, inside].any()
    assert draw(Edges("soft", SIZE), picture)[:, inside].max() < 16


def test_forgetting_starts_afresh() -> None:
    edges, fresh = Edges("canny", SIZE), Edges("canny", SIZE)
    for seed in range(5):
        draw(edges, noisy(scene(), seed))
    edges.forget()
    picture = noisy(scene(), 7)
    np.testing.assert_array_equal(draw(edges, picture), draw(fresh, picture))


def test_the_result_is_the_callers_own() -> None:
    edges = Edges("soft", SIZE)
    first = draw(edges, scene())
    kept = first.copy()
    draw(edges, scene(30))
    np.testing.assert_array_equal(first, kept)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="--edges hed: expected canny or soft"):
        Edges("hed", SIZE)


def test_f_score() -> None:
    line = np.zeros((32, 32), np.uint8)
    line[10] = 255
    other = np.roll(line, 2, axis=0)
    far = np.roll(line, 10, axis=0)
    assert f_score(line, line) == 1 and f_score(line, other) == 1 and f_score(line, far) == 0
    # All of it right, half of it found.
    assert f_score(line, np.maximum(line, far)) == pytest.approx(2 / 3)
    assert f_score(line * 0, line * 0) == 1 and f_score(line, line * 0) == 0
