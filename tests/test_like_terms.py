"""Equal frames in flight and batches for entrants that name none, and what is not installed."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import bench_samples
import pytest

from command import Command
from sdxs.common.backend import spec as specs_module
from sdxs.common.backend.spec import PEERS, check_installed, specs
from sdxs.common.bench.measure.entrants import entrants
from sdxs.common.bench.model import advice
from sdxs.common.bench.model.compare import compare
from sdxs.common.bench.model.ratios import named, ratios
from sdxs.common.bench.model.report import read_report
from sdxs.common.bench.show import html, plots
from sdxs.common.bench.show.sustained import NO_HEAT, heat_by_round
from sdxs.common.errors import UsageError

SIZE = 64


def terms(
    *chosen: str, depth: int | None = None, batch: int | None = None
) -> list[tuple[int | None, object]]:
    """In flight and batch of each, as far as the options tell."""
    made = entrants(chosen, SIZE, depth=depth, batch=batch)
    return [(each.options.in_flight(), getattr(each.options, "batch", None)) for each in made]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (("mlx:lanes=2:batch=4", "torch"), [(12, 4), (12, 4)]),
        (("mlx:lanes=4", "torch:mode=compile"), [(4, 1), (4, 1)]),
        (("torch:depth=2", "mlx"), [(2, 1), (2, 1)]),
        (("mlx", "torch:batch=8"), [(16, 8), (16, 8)]),
        (("mlx:lanes=1:depth=2", "torch:depth=1"), [(2, 1), (1, 1)]),
        (("torch:batch=4", "torch:depth=3", "torch"), [(8, 4), (3, 1), (8, 4)]),
        (("mlx:batch=4", "torch"), [(None, 4), (8, 4)]),
        (("mlx", "torch"), [(None, 1), (1, 1)]),
        (("identity", "mlx:depth=2"), [(None, None), (2, 1)]),
    ],
)
def test_who_names_no_terms_gets_those_of_the_first_that_does(
    chosen: tuple[str, ...], expected: list[tuple[int | None, object]]
) -> None:
    assert terms(*chosen) == expected


def test_terms_are_asked_for_all_and_own_ones_go_first() -> None:
    asked = terms("mlx", "torch", "torch:batch=2", "identity", depth=8, batch=4)
    assert asked == [(8, 4), (8, 4), (8, 2), (None, None)]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"depth": 2}, "--depth 2: none of identity has frames in flight or batches to set"),
        ({"batch": 2}, "--batch 2: none of identity has frames in flight"),
    ],
)
def test_terms_that_nobody_has_are_refused(wanted: Mapping[str, int], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        entrants(["identity"], SIZE, **wanted)  # type: ignore[arg-type]


def test_terms_that_cannot_be_are_refused_by_the_backend() -> None:
    with pytest.raises(UsageError, match="mlx: depth 2: no batch of 4 would ever be full"):
        entrants(["mlx", "torch"], SIZE, depth=2, batch=4)


def test_what_a_peer_needs_and_nobody_installed_is_said_with_the_remedy() -> None:
    peer = replace(specs(PEERS)["torch"], needs=("json", "sdxs_no_such_module"), extra="parity")
    with pytest.raises(UsageError) as caught:
        check_installed(peer)
    assert str(caught.value) == (
        "--backend torch: sdxs_no_such_module not installed; `pip install 'sdxs[parity]'`, or "
        "drop it"
    )


def test_a_peer_that_is_not_installed_is_refused_before_anything_runs(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: every round was measured, and the peer's failed with a bare ModuleNotFoundError."""
    monkeypatch.setattr(specs_module, "find_spec", lambda name: None)
    done = command("bench", "--backend", "identity", "--backend", "torch")
    assert done.code == 2 and "torch and diffusers not installed" in done.err
    assert "sdxs[parity]" in done.err and "round" not in done.err


RESULTS = Path(__file__).parent.parent / "docs" / "results"


def test_an_old_report_shows_no_bare_ratio() -> None:
    """Twelve frames in flight against one, from before reports told it."""
    report = read_report(RESULTS / "gpu-throughput-sdxs-512-0.9.json")
    page = html.render(report)
    assert report.ratios and len(named(report)) == len(report.ratios)
    for ratio in named(report):
        assert ratio.names == tuple(f"{x} (terms not told)" for x in (ratio.first, ratio.second))
        assert ratio.names[0] in page and f"times as long as {ratio.names[1]}" in page
    (figure,) = [f for f in plots.figures(report) if f.plot.name == "ratios"]
    assert all("terms not told" in row for row in figure.plot.rows)


def test_two_runs_on_unlike_terms_name_both() -> None:
    """A default that changed from one commit to the next makes other work of the same label."""
    first, second = bench_samples.report(), bench_samples.report()
    second.backends[0].describe |= {"in flight": "12", "batch": "4"}
    one, two = compare(first, second)
    assert one.name == "one (2 in flight; then 12 in flight, batches of 4)" and two.name == "two"
    del first.backends[0].describe["in flight"]
    assert "one (terms not told; then 12 in" in compare(first, second)[0].name


def test_rivals_on_unlike_terms_only_are_warned_of_once() -> None:
    report = bench_samples.report()
    one, two = report.backends
    twin, mate = bench_samples.backend("twin", 10.0, 3), bench_samples.backend("mate", 10.0, 4)
    twin.location, mate.location = two.location, one.location
    two.describe["in flight"] = twin.describe["in flight"] = "8"
    report.backends.append(twin)
    report.ratios = ratios(report.backends)
    (line,) = [each for each in advice.warnings(report) if "unlike terms" in each]
    assert line.startswith("one (2 in flight) and two (8 in flight) ran on unlike terms")
    assert "--depth and --batch" in line
    mate.describe["in flight"] = "8"  # the same kind as one, and on two's terms
    report.backends.append(mate)
    report.ratios = ratios(report.backends)
    assert not [each for each in advice.warnings(report) if "unlike terms" in each]


def test_the_thermal_state_is_told_by_round() -> None:
    report = bench_samples.report()
    assert heat_by_round(report) == NO_HEAT and NO_HEAT in html.render(report)
    for backend in report.backends:
        for number, state in enumerate(["nominal"] * 3 + ["fair"] + ["serious"] * 4):
            backend.rounds[number].heat = state
    told = "nominal in round 1 to 3, fair in round 4, serious in round 5 to 8"
    assert heat_by_round(report) == told and told in html.render(report)


@pytest.mark.parametrize(
    "read", [lambda path: ("--show", path), lambda path: ("--compare", path, path)]
)
@pytest.mark.parametrize("name", ["aa.json", "levers-gpu.json", "community/two-cores-linux.json"])
def test_json_of_another_schema_is_no_report(
    read: Callable[[Path], tuple[str | Path, ...]], name: str, command: Command
) -> None:
    done = command("bench", *read(RESULTS / name))
    assert done.code == 2 and "expected" in done.err and "Traceback" not in done.err
    assert name in done.err.replace("\n", "")
    assert "no report of" in done.err.replace("\n", " ")


def test_a_list_or_a_number_is_no_report(tmp_path: Path, command: Command) -> None:
    for number, text in enumerate(("[]", "7", '{"schema": 1}', '{"schema": 1, "work": 2}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        done = command("bench", "--show", path)
        assert done.code == 2 and "no report of" in done.err.replace("\n", " ")
