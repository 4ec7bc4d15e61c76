"""bench's terms: frames in flight and batches beside each ratio, starts, heat, others' figures."""

import ctypes
import sys
from collections.abc import Callable

import bench_samples
import numpy as np
import pytest
from rich.console import Console

from sdxs.common.backend.options import BackendOptions
from sdxs.common.bench.measure import heat
from sdxs.common.bench.measure.requests import Entrant
from sdxs.common.bench.measure.runner import BenchPlan, Runner
from sdxs.common.bench.model import advice, others, statistics
from sdxs.common.bench.model.ratios import ratios
from sdxs.common.bench.model.report import BackendReport, Report
from sdxs.common.bench.model.sustained import Sustained
from sdxs.common.bench.model.terms import Terms, terms_of
from sdxs.common.bench.show import html, plots, table
from sdxs.common.checkpoint.find import Checkpoint


def told(report: Report) -> str:
    console = Console(width=1000)
    with console.capture() as caught:
        console.print(table.render(report))
    return caught.get()


def on_terms(label: str, in_flight: int, batch: int = 1, location: str = "") -> BackendReport:
    made = bench_samples.backend(label, 10.0, seed=len(label))
    made.location = location or made.location
    made.describe |= {"in flight": str(in_flight), "batch": str(batch)}
    return made


def test_a_ratio_on_unlike_terms_names_both_wherever_it_stands() -> None:
    report = bench_samples.report()
    report.backends = [on_terms("pipeline", 12, 4), on_terms("stream", 1)]
    report.ratios = ratios(report.backends)
    names = ("pipeline (12 in flight, batches of 4)", "stream (1 in flight)")
    for shown in (told(report), html.render(report)):
        assert f"{names[0]} takes" in shown and f"times as long as {names[1]}" in shown
    (figure,) = [f for f in plots.figures(report) if f.plot.name == "ratios"]
    assert " / ".join(names) in str(figure.plot.rows)


def test_on_equal_terms_the_labels_are_enough() -> None:
    (ratio,) = ratios([on_terms("one", 2), on_terms("other", 2)])
    assert ratio.terms == ("", "") and ratio.names == ("one", "other")


def test_terms_that_one_does_not_tell_are_said() -> None:
    silent = bench_samples.backend("silent", 10.0, 1)
    del silent.describe["in flight"]
    (ratio,) = ratios([on_terms("one", 2), silent])
    assert ratio.names == ("one (2 in flight)", "silent (terms not told)")
    assert terms_of({"in flight": "-1"}) is None and terms_of({"in flight": "3"}) == Terms(3, 1)


def test_every_two_rivals_on_equal_terms_are_compared() -> None:
    """One run makes the whole table: one stream, two in flight, batches, on both sides."""
    mlx = [on_terms(f"mlx {n}", n, location="mlx") for n in (2, 4)]
    torch = [on_terms(f"torch {n}", n, location="torch") for n in (1, 2, 4)]
    pairs = {(r.first, r.second): r.terms for r in ratios([*mlx, *torch])}
    assert ("mlx 4", "torch 4") in pairs and ("mlx 2", "torch 2") in pairs
    assert ("mlx 4", "torch 1") not in pairs and ("torch 1", "torch 2") not in pairs
    assert pairs["mlx 2", "torch 1"] == ("2 in flight", "1 in flight")


def test_the_spread_of_starts_is_shown_and_left_out_where_nothing_starts() -> None:
    report = bench_samples.report()
    spread = statistics.between_rounds(report.backends[0].frames)
    assert spread is not None and 0.002 < spread < 0.03
    known = statistics.between_rounds([[10.0], [10.0 * np.e**0.02]])
    assert known == pytest.approx(0.02 / np.sqrt(2))
    assert statistics.between_rounds([[1.0]]) is None
    assert f"{spread:.1%}" in told(report) and "leaves out" not in told(report)
    report.settings.fresh = False
    for shown in (told(report), html.render(report)):
        assert "left out" in shown and "which leaves out how much starts differ" in shown


def test_intervals_hold_what_starts_differ() -> None:
    """Nineteen of twenty: equal ones called equal, five per cent found, starts 1 % apart."""
    chance = np.random.default_rng(20)

    def rounds(milliseconds: float) -> list[list[float]]:
        starts = milliseconds * np.exp(0.01 * chance.standard_normal(12))
        return [list(start * (1 + 0.02 * np.abs(chance.standard_normal(30)))) for start in starts]

    equal = [statistics.ratio(rounds(10.0), rounds(10.0)) for _ in range(20)]
    slower = [statistics.ratio(rounds(10.5), rounds(10.0)) for _ in range(20)]
    assert sum(found is not None and found.contains(1) for found in equal) >= 19
    assert sum(found is not None and found.low > 1 for found in slower) >= 19


def test_minutes_that_get_slower_are_found() -> None:
    seconds = [float(s) for s in range(1, 601)]
    chance = np.random.default_rng(3)

    def change(by: float) -> statistics.Interval:
        drift = [10 * (1 + by * s / 600) * (1 + 0.01 * chance.random()) for s in seconds]
        found = Sustained(seconds, drift, ["nominal", "serious"]).change
        assert found is not None
        return found

    assert change(0.0).contains(1)
    slower = change(0.1)
    assert 1.07 < slower.low < 1.0896 < slower.high < 1.11
    assert Sustained(seconds[:170], seconds[:170], []).change is None


def test_minutes_without_a_pause_are_told() -> None:
    report = bench_samples.report()
    seconds = [float(s) for s in range(1, 601)]
    report.backends[0].sustained = Sustained(seconds, [10.0] * 300 + [11.0] * 300, ["", ""])
    report.backends[1].sustained = Sustained([1.0], [10.0], ["nominal", "critical"])
    for shown in (told(report), html.render(report)):
        assert "one, 10.0 minutes without a pause: the last minute takes 1.100 times" in shown
        assert "thermal state: not available, only macOS tells one" in shown
        assert "too short" in shown and "nominal at first, critical at the end" in shown


def test_a_run_measures_minutes_without_a_pause(tiny_sdxs: Checkpoint) -> None:
    entrant = Entrant("one", "fake_backends:QuickStages", BackendOptions(64))
    quick = {"rounds": 1, "turns": 1, "turn_s": 0.01, "profile": False, "memory": False}
    plan = BenchPlan((entrant,), {}, drift=0.02, together=False, **quick)  # type: ignore[arg-type]
    report = Runner(plan, tiny_sdxs).run()
    found = report.backends[0].sustained
    assert report.failures == [] and found is not None and len(found.heat) == 2
    assert 1 <= len(found.seconds) == len(found.frame_ms) <= 3 and min(found.frame_ms) > 0
    assert terms_of(report.backends[0].describe) is not None


def test_a_run_in_which_nobody_starts_ends_in_words(tiny_sdxs: Checkpoint) -> None:
    entrant = Entrant("one", "fake_backends:FAILS_ON_LOAD", BackendOptions(64))
    report = Runner(BenchPlan((entrant,), {}, rounds=2, profile=False), tiny_sdxs).run()
    assert report.ended == "finished" and not report.complete and len(report.failures) == 2


def test_a_hot_mac_is_warned_of() -> None:
    report = bench_samples.report()
    report.backends[0].rounds[2].heat = "serious"
    report.backends[1].rounds[3].heat = "fair"
    (line,) = [each for each in advice.warnings(report) if "thermal state" in each]
    assert "rounds 3:" in line


class FakeObjC:
    """The three calls, on addresses: what NSProcessInfo answers."""

    def __init__(self, state: int) -> None:
        self._names: dict[int, bytes] = {}
        self.sel_registerName = self._function(lambda name: self._named(name))
        self.objc_getClass = self._function(lambda name: 7 if name == b"NSProcessInfo" else 0)
        answers = {b"processInfo": 9, b"thermalState": state}
        self.objc_msgSend = self._function(
            lambda receiver, selector: answers[self._names[selector.value]]
        )

    def _named(self, name: bytes) -> int:
        self._names[100 + len(self._names)] = name
        return 99 + len(self._names)

    @staticmethod
    def _function(body: Callable[..., int]) -> Callable[..., int]:
        def function(*arguments: object) -> int:
            return body(*arguments)

        return function


@pytest.mark.parametrize(
    ("state", "word"), [(0, "nominal"), (2, "serious"), (3, "critical"), (9, "unknown (9)")]
)
def test_the_thermal_state_of_a_mac(monkeypatch: pytest.MonkeyPatch, state: int, word: str) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda path: FakeObjC(state))
    assert heat.thermal_state() == word


def test_where_nothing_tells_the_heat_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert heat.thermal_state() == ""

    def missing(path: str) -> object:
        raise OSError(path)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert heat.thermal_state() == ""


def test_figures_of_others_are_called_theirs() -> None:
    report = bench_samples.report()
    for shown in (told(report), html.render(report)):
        assert others.TITLE.lower() in shown.lower() and "autostream-mac" in shown
        assert "28.6" in shown and "above 600" in shown and "RTX 5090" in shown
    libre = next(row for row in others.published(report.work) if "600" in row[4])
    assert libre[2:4] == ("SDXS", "not told")  # its source tells neither which, nor the size
    report.work.size = 256
    assert others.published(report.work) == [] and "28.6" not in told(report)
