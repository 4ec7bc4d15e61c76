"""A report as it is written, read back, shown and compared; files that must not be."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import bench_samples
import jsonschema
import pytest
from rich.console import Console

from command import Command
from sdxs.common.bench.measure import machine
from sdxs.common.bench.model import advice, statistics
from sdxs.common.bench.model.compare import Change, compare
from sdxs.common.bench.model.paper import beside
from sdxs.common.bench.model.report import SCHEMA_FILE, Report, read_report, schema_text
from sdxs.common.bench.show import html, table
from sdxs.common.errors import UsageError

RESULTS = Path(__file__).parent.parent / "docs" / "results"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(bench_samples.report().as_json(), encoding="utf-8")
    return path


def test_the_published_schema_is_that_of_the_code() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))


def test_a_report_fits_its_schema_and_comes_back_as_it_was(written: Path) -> None:
    jsonschema.validate(json.loads(written.read_text()), json.loads(SCHEMA_FILE.read_text()))
    assert read_report(written) == bench_samples.report()


@pytest.mark.parametrize(
    "path",
    sorted([*RESULTS.glob("bench-*.json"), *RESULTS.glob("gpu-*.json")]),
    ids=lambda p: p.name,
)
def test_committed_results_fit_the_schema(path: Path) -> None:
    report = read_report(path)  # leaves out what nothing reads any more
    jsonschema.validate(json.loads(report.as_json()), json.loads(SCHEMA_FILE.read_text()))
    assert report.complete


def test_a_retired_figure_is_read_and_left_out() -> None:
    text = (RESULTS / "gpu-sdxs-512-0.9.json").read_text()
    assert "half_saves_ms" in text
    assert "half_saves_ms" not in read_report(RESULTS / "gpu-sdxs-512-0.9.json").as_json()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "not readable as json"),
        (lambda text: "[1, 2]", "schema None, expected 1"),
        (lambda text: text.replace('"schema": 1', '"schema": 2', 1), "schema 2, expected 1"),
        (
            lambda text: text.replace('"size": 512', '"size": "large"', 1),
            r"report.work.size is str, expected int",
        ),
        (lambda text: text.replace('"seed": 0,', "", 1), r"report.work.seed is missing"),
        (
            lambda text: text.replace('"seed": 0', '"seed": 0, "sauce": 1', 1),
            r"report.work has an unknown 'sauce'",
        ),
        (
            lambda text: text.replace('"complete": true', '"complete": 1', 1),
            r"report.complete is int, expected bool",
        ),
        (
            lambda text: text.replace('"size": 512', '"size": true', 1),
            r"report.work.size is bool, expected int",
        ),
        (
            lambda text: text.replace('"frame_ms": [', '"frame_ms": [true, ', 1),
            r"report.backends\[0\].rounds\[0\].frame_ms\[0\] is bool, expected float",
        ),
        (
            lambda text: text.replace('"unet": "', '"unet": null, "vae": "', 1),
            r"report.work.weights.unet is NoneType, expected str",
        ),
        (
            lambda text: text.replace('"ratio": {', '"ratio": 7, "refused": "", "x": {', 1),
            r"report.ratios\[0\].ratio is int, expected dict",
        ),
        (lambda text: text.replace("made-up", "\\ud800", 1), "damaged: report: Invalid JSON"),
        (
            lambda text: text.replace('"frame_ms": [', '"frame_ms": [NaN, ', 1),
            r"rounds\[0\].frame_ms\[0\] is nan, which is no measurement",
        ),
        (
            lambda text: text.replace('"frame_ms": [', '"frame_ms": [1e999, ', 1),
            r"frame_ms\[0\] is inf, which is no measurement",
        ),
        (
            lambda text: text.replace('"frame_ms": [', '"frame_ms": [0.0, ', 1),
            r"frame_ms\[0\] is 0, expected a time above 0",
        ),
        (
            lambda text: text.replace('"latency_ms": [', '"latency_ms": [-3.0, ', 1),
            r"latency_ms\[0\] is -3, expected a time above 0",
        ),
        (
            lambda text: text.replace('"cores": 8', f'"cores": {"9" * 400}', 1),
            r"report.machine.cores is inf, which is no measurement",
        ),
        (
            lambda text: text.replace('"cores": 8', '"cores": -8', 1),
            r"report.machine.cores is -8, expected 0 or more",
        ),
    ],
    ids=[
        "cut off",
        "no report",
        "of the future",
        "wrong type",
        "missing",
        "unknown",
        "number for truth",
        "truth for number",
        "in a list",
        "in a dictionary",
        "number for an object",
        "no text",
        "no number",
        "no end",
        "no time",
        "before it began",
        "no machine",
        "less than none",
    ],
)
def test_a_damaged_file_is_refused_by_name(
    written: Path, damage: Callable[[str], str], said: str
) -> None:
    written.write_text(damage(written.read_text()))
    with pytest.raises(UsageError, match=said) as caught:
        read_report(written)
    assert str(written) in str(caught.value)


def test_the_command_refuses_a_damaged_file_in_one_line(written: Path, command: Command) -> None:
    written.write_text("{")
    done = command("bench", "--compare", written, written)
    assert done.code == 2 and "not readable as json" in done.err and "Traceback" not in done.err
    assert command("bench", "--show", written).code == 2


def test_compare_says_what_changed_and_no_more(tmp_path: Path, command: Command) -> None:
    for name, made in (("a", bench_samples.report(20, 10)), ("b", bench_samples.report(15, 10))):
        (tmp_path / f"{name}.json").write_text(made.as_json())
    one, two = compare(read_report(tmp_path / "a.json"), read_report(tmp_path / "b.json"))
    assert (one.label, one.verdict, two.verdict) == ("one", "faster", "no difference shown")
    assert one.ratio is not None and one.ratio.value == pytest.approx(0.75, abs=0.01)
    assert "faster" in command("bench", "--compare", tmp_path / "a.json", tmp_path / "b.json").out


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ("interrupted", "the second run was interrupted: its figures are of what"),
        ("running", "the second run was killed, or runs still"),
        ("finished", "the second run had failures"),
    ],
)
def test_compare_marks_a_run_that_is_not_whole(
    ended: str, said: str, tmp_path: Path, command: Command
) -> None:
    whole, cut = bench_samples.report(20, 10), bench_samples.report(15, 10)
    cut.complete, cut.ended = False, ended
    for name, made in (("a", whole), ("b", cut)):
        (tmp_path / f"{name}.json").write_text(made.as_json())
    done = command("bench", "--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert done.code == 0 and said in done.out and done.out.count("warning:") == 1
    done = command("bench", "--compare", tmp_path / "a.json", tmp_path / "a.json")
    assert done.code == 0 and "warning:" not in done.out


def test_no_verdict_is_given_on_no_number() -> None:
    nothing = statistics.Interval(math.nan, math.nan, math.nan)
    assert Change("one", 1.0, 1.0, nothing).verdict == "too few rounds to say"


def _other(change: Callable[[Report], None]) -> Report:
    made = bench_samples.report()
    change(made)
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: setattr(r.work, "model", "other"), "model is made-up in the first and other"),
        (lambda r: setattr(r.work, "size", 256), "size is 512"),
        (lambda r: setattr(r.work, "seed", 1), "seed is 0"),
        (lambda r: r.work.weights.update(unet="ef" * 32), "weights is"),
        (lambda r: r.backends[0].describe.update(dtype="float32"), "computed in float16"),
        (lambda r: r.backends[0].settings.update(mode="x"), "was set otherwise"),
        (
            lambda r: setattr(r.machine, "chip", "another"),
            "different machines: chip is 'a chip' and 'another'",
        ),
        (lambda r: r.backends.clear(), "no measured backend in common"),
    ],
)
def test_unlike_runs_refuse_to_be_compared(change: Callable[[Report], None], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        compare(bench_samples.report(), _other(change))


def test_machines_can_be_compared_on_request() -> None:
    other = _other(lambda r: setattr(r.machine, "chip", "another"))
    assert len(compare(bench_samples.report(), other, across_machines=True)) == 2


def test_the_papers_figures_stand_beside_the_same_work_only() -> None:
    report = bench_samples.report()
    rows = {row.what: row for row in beside(report.work, report.backends)}
    unet = next(row for what, row in rows.items() if what.endswith(": unet"))
    assert unet.paper_ms == 24.4 and unet.ours_ms["one"] == pytest.approx(12)
    report.work.size = 256
    assert not beside(report.work, report.backends)
    report.work.size, report.work.unet_parameters = 512, 3_000_000
    assert not beside(report.work, report.backends)


def test_warnings_say_what_to_do() -> None:
    report = bench_samples.report()
    assert not advice.warnings(report)
    report.conditions[0]["load"] = "7.5 1 1"
    report.conditions[1]["power"] = "Battery Power"
    report.settings.rounds, report.settings.fresh = 3, False
    report.backends[0].rounds[5].error, report.backends[0].rounds[5].frame_ms = "it died", []
    for number, found in enumerate(report.backends[1].rounds):
        found.frame_ms = [t * (1 + 0.05 * number) for t in found.frame_ms[:2]] + [99.0]
    report.backends[1].summary = statistics.summary(report.backends[1].frames)
    report.counts[0].flops["coreml"] *= 2
    said = "\n".join(advice.warnings(report))
    for part in (
        "load average was 7.5",
        "plug the machine in",
        "--rounds 6",
        "without --keep",
        "failed in 1 of 8 rounds (it died)",
        "slower from the first rounds",
        "more than 1.5 times",
        "little more than the slowest",
        "ways of counting differ",
    ):
        assert part in said


def test_tables_and_page_tell_the_headline() -> None:
    report = bench_samples.report()
    report.paper = beside(report.work, report.backends)
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(table.render(report))
    told = console.export_text()
    page = html.render(report)
    pair = report.ratios[0]
    headline = table.in_words(pair, pair.ratio or pytest.fail("no ratio"), fresh=True)
    assert headline in told and headline in page
    for words in ("not the same machine", "control", "per 1,000 frames"):
        assert words in told and words in page
    assert "<script" not in page and not re.search(r'(?:src|href)="', page) and "url(" not in page


def test_a_partial_report_says_so_first() -> None:
    report = bench_samples.report()
    report.complete, report.ended = False, "interrupted"
    assert "Not complete: the run interrupted" in html.render(report)
    assert any("interrupted" in line for line in advice.warnings(report))


def test_markup_in_a_name_stays_text() -> None:
    report = bench_samples.report()
    report.work.model = "<b>[red]x"
    page = html.render(report)
    assert "&lt;b&gt;[red]x" in page and "<b>[red]x" not in page
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(table.render(report))
    assert "<b>[red]x" in console.export_text()


def test_power_and_heat_are_read_where_the_system_tells(tmp_path: Path) -> None:
    for name, kind, online in (("AC", "Mains", "0"), ("BAT0", "Battery", "")):
        (tmp_path / "power" / name).mkdir(parents=True)
        (tmp_path / "power" / name / "type").write_text(kind)
        (tmp_path / "power" / name / "online").write_text(online)
    assert machine._linux_power(tmp_path / "power") == "battery"
    (tmp_path / "power" / "AC" / "online").write_text("1")
    assert machine._linux_power(tmp_path / "power") == "mains"
    assert machine._linux_power(tmp_path / "nothing") == ""
    for number, degrees in ((0, "41000"), (1, "63500"), (2, "no")):
        (tmp_path / f"thermal_zone{number}").mkdir()
        (tmp_path / f"thermal_zone{number}" / "temp").write_text(degrees)
    assert machine._linux_thermal(tmp_path) == "64 C"


def test_a_program_that_is_missing_or_fails_tells_nothing() -> None:
    assert machine.asked("sdxs-no-such-program") == "" and machine.asked("false") == ""
    assert "load" in machine.conditions() and machine.versions()["numpy"]


def test_a_copy_without_a_repository_names_the_commit_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "PACKAGE_FOLDER", tmp_path)
    assert machine.git_revision() == ""
    monkeypatch.setenv("SDXS_GIT_REVISION", "abc")
    assert machine.git_revision() == "abc"
