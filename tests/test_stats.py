"""A session's figures: exact while few, sampled when many, in bounded memory."""

import numpy as np
import pytest

from sdxs.common.live.stats import Series, Spread, Stats
from sdxs.common.live.threads.frames import LiveFrame


def test_percentiles_are_exact_while_everything_is_kept() -> None:
    series = Series()
    for value in range(1, 10_001):
        series.add(float(value))
    assert series.spread() == Spread(
        *(round(float(p), 3) for p in np.percentile(np.arange(1, 10_001), [50, 95, 99]))
    )


def test_a_long_session_is_sampled_evenly_in_bounded_memory() -> None:
    """Bug: lists of every frame's figures grew by a megabyte a minute."""
    series = Series()
    for value in range(4 * Series.MOST):
        series.add(float(value))
    assert len(series._values) == Series.MOST
    assert series.spread().p50 == pytest.approx(2 * Series.MOST, rel=0.03)


def test_nothing_added_is_all_zero() -> None:
    assert Series().spread() == Spread(0, 0, 0)


def test_rate_and_latency_of_the_last_frames() -> None:
    stats, frame = (
        Stats(),
        LiveFrame(np.zeros((8, 8, 3), np.uint8), [np.zeros((8, 8, 3), np.uint8)]),
    )
    for number in range(100):
        frame.captured_ns = number * 50_000_000
        stats.frame_shown(frame, frame.captured_ns + 30_000_000)
    assert stats.fps == pytest.approx(20) and stats.recent_latency_ms == pytest.approx(30)
    summary = stats.summary(0, (3, 4), "test")
    assert summary.fps == pytest.approx(20) and summary.latency_ms.p99 == pytest.approx(30)
    assert (summary.shown, summary.dropped_before_inference, summary.dropped_before_display) == (
        100,
        3,
        4,
    )
