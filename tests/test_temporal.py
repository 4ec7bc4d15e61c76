"""Smoothing, blending, similarity, flicker and PSNR on pictures whose answer is known."""

import numpy as np
import pytest

from sdxs.common.picture.temporal import Flicker, Similarity, Smoother, psnr


def flat(level: int, size: int = 64) -> np.ndarray:
    return np.full((size, size, 3), level, np.uint8)


def test_smoothing_reaches_the_target_though_each_step_is_under_one_level() -> None:
    """Bug of 8-bit states: at a weight of 0.95, 10 levels move by half a level and stop."""
    smoother = Smoother(64)
    smoother.apply(flat(100), flat(0), ema=0.95, blend=0)
    levels = []
    for _ in range(200):
        picture = flat(110)
        smoother.apply(picture, flat(0), ema=0.95, blend=0)
        levels.append(int(picture[0, 0, 0]))
    assert levels[0] in (100, 101) and levels[-1] == 110
    assert levels == sorted(levels)


def test_smoothing_starts_afresh_after_it_was_off() -> None:
    smoother, picture = Smoother(64), flat(200)
    smoother.apply(flat(0), flat(0), ema=0.9, blend=0)
    smoother.apply(flat(50), flat(0), ema=0, blend=0)
    smoother.apply(picture, flat(0), ema=0.9, blend=0)
    assert (picture == 200).all()


def test_blend_mixes_the_camera_in() -> None:
    picture = flat(100)
    Smoother(64).apply(picture, flat(200), ema=0, blend=0.25)
    assert (picture == 125).all()


@pytest.mark.parametrize(
    ("threshold", "change", "similar"),
    [(0, 0, True), (0, 1, False), (2.0, 1, True), (2.0, 3, False), (-1, 0, False)],
)
def test_similarity(threshold: float, change: int, similar: bool) -> None:
    measure = Similarity(threshold)
    assert not measure.is_similar(flat(100))
    assert measure.is_similar(flat(100 + change)) is similar


def test_slow_drift_is_not_missed() -> None:
    """Compared with what was last rendered, not with the frame before."""
    measure = Similarity(2.5)
    found = [measure.is_similar(flat(100 + n)) for n in range(7)]
    assert found == [False, True, True, False, True, True, False]


def test_forgetting_makes_the_next_picture_different() -> None:
    measure = Similarity(0)
    measure.is_similar(flat(1))
    measure.forget()
    assert not measure.is_similar(flat(1))


def noisy(level: int, amplitude: int, seed: int) -> np.ndarray:
    """Noise that survives averaging: whole blocks go up or down."""
    blocks = np.random.default_rng(seed).choice([-amplitude, amplitude], (64, 64, 1))
    return np.broadcast_to(np.clip(level + blocks, 0, 255), (64, 64, 3)).astype(np.uint8)


@pytest.mark.parametrize("gain", [0, 1, 3])
def test_flicker_is_the_ratio_of_changes_where_the_input_stands_still(gain: int) -> None:
    measure = Flicker()
    for seed in range(20):
        camera = noisy(100, 1, seed)
        measure.add(camera, (128 + gain * (camera.astype(int) - 100)).astype(np.uint8))
    assert measure.ratio == pytest.approx(gain, abs=0.02)
    assert measure.input_levels == pytest.approx(1, abs=0.1)


def test_moving_regions_do_not_count_as_flicker() -> None:
    measure = Flicker()
    for n in range(10):
        camera, output = flat(100), flat(100)
        camera[:, :32] = 100 + 50 * (n % 2)  # moves, and the output follows it
        output[:, :32] = 100 + 100 * (n % 2)
        measure.add(camera, output)
    assert measure.output_levels == 0 and measure.ratio is None


@pytest.mark.parametrize(("moving", "pairs"), [(0, 9), (15, 9), (17, 0), (64, 0)])
def test_a_moving_camera_is_not_measured(moving: int, pairs: int) -> None:
    measure = Flicker(least_static=0.75)
    for n in range(10):
        camera = noisy(100, 1, n)
        camera[:, :moving] = 100 + 50 * (n % 2)
        measure.add(camera, camera)
    assert measure.pairs == pairs and (measure.ratio is None) == (pairs == 0)


def test_a_change_of_prompt_is_no_flicker() -> None:
    measure = Flicker()
    measure.add(flat(100), flat(0))
    measure.restart()
    measure.add(flat(100), flat(255))
    assert measure.pairs == 0


def test_psnr() -> None:
    assert psnr(flat(7), flat(7)) == float("inf")
    assert psnr(flat(100), flat(110)) == pytest.approx(20 * np.log10(25.5))
