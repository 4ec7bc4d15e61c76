"""Short forms of the long measurements: a soak and interrupted sessions."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdxs.experiments.measure import endurance
from sdxs.experiments.measure.endurance import EnduranceOptions, Sample, verdict
from sdxs.experiments.measure.interrupts import Outcome, interrupt
from sdxs.experiments.measure.soak import growth_bytes, soak


@pytest.mark.parametrize("hosted", [False, True])
def test_a_session_leaves_nothing_behind(hosted: bool) -> None:
    run = soak(3, hosted)
    assert not run["threads_left"] and not run["shared_memory_left"] and not run["processes_left"]
    assert int(str(run["frames"])) > 0


@pytest.mark.parametrize(
    "part",
    [
        {"part": "cycles", "count": 3},
        {"part": "dropped", "count": 2, "backend": "hosted"},
        {"part": "prompts", "count": 10},
        {"part": "live", "seconds": 2.0},
    ],
    ids=lambda part: str(part["part"]),
)
def test_each_part_of_endurance_samples_the_process(part: dict[str, Any], tmp_path: Path) -> None:
    options = EnduranceOptions(**part, json=tmp_path / "endurance.json")
    assert endurance.run(options) in (0, 1)  # a few of anything are no verdict
    (stored,) = json.loads(options.json.read_text())["parts"].values()
    threads = [row[stored["columns"].index("threads")] for row in stored["samples"]]
    assert len(threads) >= 2 and min(threads) >= 1


def test_what_grows_is_told_from_what_is_flat() -> None:
    flat = [Sample(n, 8 + n % 2, 6, 75.0 + 0.01 * n) for n in range(60)]
    assert verdict(flat)["flat"]
    for grown in (
        [replace(each, threads=8 + each.done) for each in flat],
        [replace(each, descriptors=6 + each.done) for each in flat],
        [replace(each, anonymous_mb=75 + each.done) for each in flat],
    ):
        assert not verdict(grown)["flat"]


def test_growth_is_seen() -> None:
    flat = [(float(n), 100_000_000 + n % 3) for n in range(100)]
    leaking = [(float(n), 100_000_000 + 200_000 * n) for n in range(100)]
    assert abs(growth_bytes(flat)) < 10 and growth_bytes(leaking) == pytest.approx(
        10_000_000, rel=0.05
    )


def test_pythons_own_farewell_is_right_and_any_other_code_1_is_not() -> None:
    """Bug: SIGINT while Python itself starts ends it with code 1, before any line of ours."""
    outcome = Outcome("SIGINT", 0.01, False, 1, 0.1, 0, (), "", farewell=True)
    assert outcome.good and not replace(outcome, farewell=False).right
    assert replace(outcome, code=130, farewell=False).good
    late = replace(outcome, exit_s=1.2)
    assert late.right and not late.good


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "after_s",
    [0.02, 0.1, pytest.param(0.6, marks=pytest.mark.thorough), 1.3]
    + [pytest.param(2.5, marks=pytest.mark.thorough)],
)
def test_a_signal_at_any_moment(after_s: float, number: signal.Signals, isolate: bool) -> None:
    outcome = interrupt(number, after_s, isolate)
    # `python -m sdxs.experiments interrupts` holds it to the one second of the README; a
    # busy machine gets more.
    assert outcome.right and outcome.exit_s < 10, outcome
