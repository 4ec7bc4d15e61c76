"""The check of bench itself: starts that differ are planted, and intervals hold them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.bench.model.statistics import between_rounds
from sdxs.experiments.measure import aa
from sdxs.experiments.measure.aa import CopyingBackend, CopyingOptions, copies_of_a_start, judged


def test_every_start_draws_its_own_copies() -> None:
    chance = np.random.default_rng(1)
    options = CopyingOptions(8, copies=100_000, spread=aa.SPREAD)
    logs = [math.log(copies_of_a_start(options, chance) / 100_000) for _ in range(2000)]
    assert np.std(logs) == pytest.approx(aa.SPREAD, rel=0.05) and abs(np.mean(logs)) < 0.002
    # a chance of one in a million that all three draw the same
    starts = {CopyingBackend(None, options)._copies for _ in range(3)}
    assert len(starts) > 1
    assert copies_of_a_start(CopyingOptions(8, copies=1000), chance) == 1000


def test_a_timed_frame_takes_its_copies_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(range(0, 10**9, 100_000))
    slept: list[float] = []
    monkeypatch.setattr(aa.time, "perf_counter_ns", lambda: next(moments))
    monkeypatch.setattr(aa.time, "sleep", slept.append)
    aa.wait_until(1_050_000)
    assert slept == [pytest.approx(0.00085)] and next(moments) == 1_200_000
    aa.wait_until(1_000_000)  # is over
    assert len(slept) == 1
    waited: list[int] = []
    monkeypatch.setattr(aa, "wait_until", waited.append)
    backend = CopyingBackend(None, CopyingOptions(8, copies=1500, timed=True))
    picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    backend.submit(picture)
    before, out = next(moments), np.zeros_like(picture)
    backend.collect(out)
    assert waited == [before + 100_000 + 1500 * aa.COPY_NS] and np.array_equal(out, picture)
    assert not backend._target.any()


def test_the_plans_plant_what_their_names_say() -> None:
    for kind in aa.KINDS[:-1]:
        made = aa.plan(kind)
        first, second = (each.options for each in made.entrants)
        assert isinstance(first, CopyingOptions) and isinstance(second, CopyingOptions)
        slower = kind in ("slower", "starts-slower", "timed-slower")
        assert first.copies / second.copies == (aa.PLANTED if slower else 1)
        spread = 0.0 if kind in ("same", "slower") else aa.SPREAD
        assert first.spread == second.spread == spread
        assert made.fresh is (kind != "kept-same")
        assert first.timed is second.timed is (kind in ("timed-same", "timed-slower"))


def simulated(kind: str, chance: np.random.Generator) -> dict[str, object]:
    """A run as `aa` keeps it: what a start draws lasts for a round, or, kept, for all of them."""
    medians = {}
    for label, factor in (("slower", aa.PLANTED if "slower" in kind else 1.0), ("quicker", 1.0)):
        starts = aa.SPREAD * chance.standard_normal(aa.ROUNDS)
        luck = np.full(aa.ROUNDS, starts[0]) if "kept" in kind else starts
        noise = 0.003 * chance.standard_normal(aa.ROUNDS)
        medians[label] = [float(t) for t in factor * np.exp(luck + noise)]
    return {"kind": kind, "round_medians_ms": medians}


@pytest.mark.parametrize("kind", ["starts-same", "starts-slower"])
def test_intervals_over_starts_are_right_in_19_of_20(kind: str) -> None:
    chance = np.random.default_rng(7)
    right = [judged(simulated(kind, chance))["right"] for _ in range(20)]
    assert sum(map(bool, right)) >= 19


def test_kept_processes_make_intervals_that_know_nothing_of_starts() -> None:
    """What --keep leaves out, and has to say: most of these claim a difference that is luck."""
    chance = np.random.default_rng(8)
    kept = [simulated("kept-same", chance) for _ in range(20)]
    assert sum(bool(judged(run)["right"]) for run in kept) <= 10
    rounds = [[[t] for t in each] for each in kept[0]["round_medians_ms"].values()]  # type: ignore[attr-defined]
    spread = between_rounds(rounds[0])
    assert spread is not None and spread < aa.SPREAD / 2


def test_stored_runs_of_the_first_kinds_stay_right() -> None:
    run = {"kind": "slower", "round_medians_ms": {"a": [1.06] * 12, "b": [1.0] * 12}}
    assert judged(run)["right"] is True
    assert judged({**run, "kind": "same"})["right"] is False


def test_runs_that_are_added_to_a_file_leave_the_others_their_commit(tmp_path: Path) -> None:
    run = {"kind": "same", "round_medians_ms": {"a": [1.0] * 12, "b": [1.0] * 12}}
    path = tmp_path / "aa.json"
    for content in ({"machine": {"git": "old+changes"}}, {"machine": {}, "commit": "old+changes"}):
        path.write_text(json.dumps({**content, "runs": [run, {**run, "commit": "new"}]}))
        assert [each["commit"] for each in aa.stored_runs(path)] == ["old+changes", "new"]
