"""The loop's benchmark can fail: targets that are missed and drops that do not add up are said."""

import pytest

from sdxs.experiments.measure.loop import CASES, FREE, Target, measure, missed


def a_round(**changes: object) -> dict[str, object]:
    good = {"of_ideal": 0.98, "fps": 39.2, "age_ms": {"p95": 42.0}, "overhead_ms": 0.4}
    return good | {"drops_are_exact": True, "in_order": True} | changes


def test_targets_are_judged_by_the_median_and_exactness_in_every_round() -> None:
    late = a_round(age_ms={"p95": 51.0}, overhead_ms=1.2)
    assert missed(FREE, [a_round(), late, a_round()]) == []
    said = missed(FREE, [late, late, a_round()])
    assert [line.split(",")[0] for line in said] == ["age_ms p95 51.000", "overhead_ms 1.200"]
    assert missed(Target(least_fps=40), [a_round()]) == ["fps 39.200, expected at least 40.000"]
    assert missed(Target(), [a_round(), a_round(drops_are_exact=False)]) == [
        "drops_are_exact is false in round 2"
    ]


def test_drops_add_up_in_a_short_run_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast it was is no matter here."""
    # A thread that is left behind has a frame that nobody counts.
    monkeypatch.setattr("sdxs.common.live.threads.loop.JOIN_S", 30.0)
    for case in (CASES[0], CASES[4], CASES[6]):  # threaded, sequential, pipelined
        figures = measure(case, 0.3)
        assert figures["drops_are_exact"] and figures["in_order"], figures
