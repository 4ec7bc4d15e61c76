"""The statistics behind every figure of bench, on samples whose truth is known."""

import numpy as np
import pytest

from sdxs.common.bench.model.statistics import (
    drift,
    growth,
    outliers,
    ratio,
    summary,
    unpaired_ratio,
)

RUNS = 100


def rounds_of(
    chance: np.random.Generator, count: int, factor: float, noise: float = 0.01
) -> tuple[list[list[float]], list[list[float]]]:
    """Two alternating backends, a machine that drifts by 20 %, unequal rounds, skewed frames."""
    first, second = [], []
    for number in range(count):
        machine = 10 * (1 + 0.2 * np.sin(number) + 0.05 * chance.standard_normal())
        for made, times in ((first, factor), (second, 1.0)):
            middle = machine * times * np.exp(noise * chance.standard_normal())
            made.append([float(t) for t in middle * (1 + 0.05 * chance.exponential(size=15))])
    return first, second


@pytest.mark.parametrize("count", [8, 12, 20])
def test_equal_backends_are_called_equal_in_95_of_100_runs(count: int) -> None:
    chance = np.random.default_rng(count)
    found = [ratio(*rounds_of(chance, count, 1.0)) for _ in range(RUNS)]
    held = sum(interval is not None and interval.contains(1) for interval in found)
    assert 90 <= held <= 100  # 95 expected; fewer than 90 has a chance of 1 in 35


def test_five_percent_is_found_in_95_of_100_runs_at_least() -> None:
    chance = np.random.default_rng(5)
    found = [ratio(*rounds_of(chance, 12, 1.05)) for _ in range(RUNS)]
    assert sum(interval is not None and interval.low > 1 for interval in found) >= 95
    assert np.median([interval.value for interval in found if interval]) == pytest.approx(
        1.05, abs=0.005
    )


def test_one_disturbed_round_does_not_decide() -> None:
    first, second = rounds_of(np.random.default_rng(1), 12, 1.0)
    first[3] = [5 * t for t in first[3]]
    found = ratio(first, second)
    assert found is not None and found.contains(1) and found.value == pytest.approx(1, abs=0.02)


def test_more_frames_in_a_round_make_no_interval_narrower() -> None:
    """Frames of one process are no independent evidence; only rounds are."""
    first, second = rounds_of(np.random.default_rng(2), 8, 1.0, noise=0.05)
    few = ratio(first, second)
    many = ratio([r * 50 for r in first], [r * 50 for r in second])
    assert few is not None and many == few


def test_few_rounds_give_a_wide_interval_or_none() -> None:
    first, second = rounds_of(np.random.default_rng(3), 3, 1.0)
    narrow = ratio(*rounds_of(np.random.default_rng(3), 12, 1.0))
    wide = ratio(first, second)
    assert (
        wide is not None and narrow is not None and wide.high - wide.low > narrow.high - narrow.low
    )
    assert ratio(first[:1], second[:1]) is None


def test_runs_at_different_times_are_not_paired() -> None:
    """Two reports share no rounds: what both drifted by together must not cancel."""
    first, second = rounds_of(np.random.default_rng(4), 12, 1.0)
    paired, unpaired = ratio(first, second), unpaired_ratio(first, second)
    assert paired is not None and unpaired is not None
    assert unpaired.high / unpaired.low > 1.1 > paired.high / paired.low


def test_summary_pools_every_frame() -> None:
    found = summary([[1.0, 2.0], [3.0, 4.0, 100.0]])
    assert (found.frames, found.median, found.fps) == (5, 3.0, pytest.approx(1000 / 3))
    with pytest.raises(ValueError):
        summary([])


def test_drift_and_outliers() -> None:
    steady = [[10.0] * 20] * 9
    assert drift(steady) == 0 and outliers(steady) == 0
    warming = [[10.0 + n] * 20 for n in range(9)]
    assert drift(warming) == pytest.approx(0.545, abs=0.001)
    assert outliers([[10.0] * 18 + [16.0, 14.0]]) == pytest.approx(0.05)


def test_growth_finds_a_leak_and_no_more() -> None:
    chance = np.random.default_rng(0)
    frames = np.arange(0, 600, 20)
    noise = 5_000 * chance.standard_normal(len(frames))
    leaking, steady = growth(frames, 1e8 + 1000 * frames + noise), growth(frames, 1e8 + noise)
    assert (
        leaking is not None
        and leaking.low > 900_000
        and leaking.contains(1e6)
        and leaking.contains(leaking.value)
    )
    assert steady is not None and steady.contains(0)
    assert growth(frames[:5], noise[:5]) is None
