"""Starts: phases that add up to the whole, caches that are empty when they are said to be."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import bench_samples
import fake_starts
import numpy as np
import pytest
from rich.console import Console

from sdxs.common.backend.compile_cache import CompileCache
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.spec import BackendSpec, specs
from sdxs.common.bench.measure import page_cache, start
from sdxs.common.bench.measure.requests import Entrant
from sdxs.common.bench.measure.runner import BenchPlan, Runner
from sdxs.common.bench.measure.start import is_cold, phases, plan_of
from sdxs.common.bench.model.report import Report
from sdxs.common.bench.model.start import COLD, KEPT, Start, Starts, middle
from sdxs.common.bench.show import html, plots, table
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.prompt.cache import EmbeddingCache
from sdxs.common.prompt.text_encoder import TextEncoder

IDENTITY = "sdxs.common.backend.identity:IdentityBackend"
PHASES = ["process", "import", "weights", "compile and warm-up", "prompt", "first frame"]


CACHE = CompileCache((fake_starts.FOLDER,))


def spec(location: str = IDENTITY, cache: CompileCache = CACHE, **changes: object) -> BackendSpec:
    return BackendSpec("fake", location, compile_cache=lambda: cache, **changes)  # type: ignore[arg-type]


@pytest.fixture
def run(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Report]:
    """A run of one backend with the least of rounds; the user's cache is a folder with a kernel."""
    (tmp_path / "kernel of the user").touch()
    monkeypatch.setenv(fake_starts.FOLDER, str(tmp_path))

    def go(location: str, starts: int = 1, cache: CompileCache = CACHE) -> Report:
        monkeypatch.setattr(start, "spec_of", lambda name, **_: spec(location, cache))
        plan = BenchPlan(
            (Entrant("a", location, BackendOptions(64), backend="fake"),),
            {},
            rounds=1,
            turns=1,
            turn_s=0.01,
            profile=False,
            together=False,
            memory=False,
            cold_start=starts,
        )
        return Runner(plan, tiny_sdxs).run()

    return go


def test_the_phases_of_a_start_are_its_whole_and_the_cold_one_found_nothing(
    run: Callable[..., Report], tmp_path: Path
) -> None:
    report = run("fake_starts:Compiling", 2)
    found = report.backends[0].starts
    assert report.complete and found
    assert [each.kind for each in found.starts] == [COLD, KEPT, COLD, KEPT]
    for each in found.starts:
        assert list(each.phases_ms) == PHASES and min(each.phases_ms.values()) > 0
        assert sum(each.phases_ms.values()) == pytest.approx(each.whole_ms)
        assert each.whole_ms > 50 and each.steady_ms > 0  # no Python starts within 50 ms
    # one kernel of its own each time, on top of what it found
    assert [each.compiled_files for each in found.starts] == [1, 2, 1, 2]
    assert os.environ[fake_starts.FOLDER] == str(tmp_path)
    # the round before the starts used the user's cache, the starts did not
    assert sorted(each.name for each in tmp_path.iterdir()) == ["kernel of the user", "kernel-1"]


def test_phases_that_the_backend_does_not_tell_apart_are_named_together(
    run: Callable[..., Report],
) -> None:
    found = run(IDENTITY).backends[0].starts
    assert found
    for each in found.starts:
        assert list(each.phases_ms) == [
            *PHASES[:2],
            "weights, compile and warm-up",
            *PHASES[4:],
        ]
        assert sum(each.phases_ms.values()) == pytest.approx(each.whole_ms)


def test_a_start_that_fails_is_said_so_and_the_next_is_made(run: Callable[..., Report]) -> None:
    report = run("fake_starts:Jammed")
    found = report.backends[0].starts
    assert found and [bool(each.error) for each in found.starts] == [True, False]
    assert "a cold start: fake: cannot compile" in found.starts[0].error
    assert report.failures == [found.starts[0].error] and not report.complete
    assert not found.of(COLD) and len(found.of(KEPT)) == 1


def test_prompts_of_a_start_are_kept_in_the_folder_it_names(
    tiny_sdxs: Checkpoint, tmp_path: Path
) -> None:
    first, again = (
        TextEncoder(tiny_sdxs, EmbeddingCache(tiny_sdxs, tmp_path)).encode("a start")
        for _ in range(2)
    )
    assert len(list(tmp_path.iterdir())) == 1 and np.array_equal(first, again)


def test_phases_follow_from_their_ends_and_a_repeated_one_adds_up() -> None:
    ends = [("process", 3_000_000), ("weights", 5_000_000), ("weights", 6_500_000)]
    assert phases(1_000_000, ends) == {"process": 2.0, "weights": 3.5}


def test_a_file_is_in_the_page_cache_until_it_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(1_000_000))
    empty = tmp_path / "empty"
    empty.touch()
    if not page_cache.can_drop():
        assert page_cache.resident([path]) is None
        return
    assert page_cache.resident([path, empty]) == 1
    asked: list[tuple[int, ...]] = []
    original = os.posix_fadvise

    def advise(descriptor: int, *others: int) -> None:
        asked.append(others)
        original(descriptor, *others)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    page_cache.drop([path, tmp_path / "missing"])
    assert asked == [(0, 0, os.POSIX_FADV_DONTNEED)]
    if page_cache.resident([path]):
        pytest.skip("this file system keeps its files in memory")
    assert page_cache.resident([path]) == 0
    path.read_bytes()
    assert page_cache.resident([path]) == 1
    assert page_cache.resident([tmp_path / "missing"]) is None
    assert page_cache.resident([empty]) is None


def test_what_was_emptied_is_said_and_what_was_not_with_the_reason(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "can_drop", lambda: True)
    monkeypatch.setattr(start, "drop", lambda files: None)
    for stayed, said in (
        (0.0, "the weights' files are dropped"),
        (0.4, "kept: 40% of the weights' files stay"),
        (None, "whether it did cannot be seen"),
    ):
        monkeypatch.setattr(start, "resident", lambda files, stayed=stayed: stayed)
        plan = plan_of(spec(), tiny_sdxs)
        assert said in plan.page_cache and is_cold(plan)
    assert plan.compile_cache == f"an empty folder by {fake_starts.FOLDER}"
    assert "in programs" in plan_of(spec(programs="somewhere:Programs"), tiny_sdxs).page_cache
    monkeypatch.setattr(start, "can_drop", lambda: False)
    plan = plan_of(None, tiny_sdxs)
    assert plan.page_cache.startswith("kept: this system drops no single file without root")
    assert plan.compile_cache == "kept: the backend names no cache of what it compiles"
    assert not is_cold(plan)


def test_where_nothing_can_be_emptied_no_start_is_called_cold(
    run: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "can_drop", lambda: False)
    report = run(IDENTITY, cache=CompileCache(why="it is the system's"))
    found = report.backends[0].starts
    assert found and [each.kind for each in found.starts] == [KEPT]
    assert found.compile_cache == "kept: it is the system's"


def test_every_backend_says_where_it_compiles_or_why_that_cannot_be_moved() -> None:
    for name, each in specs().items():
        cache = each.compile_cache()
        assert bool(cache.variables) != bool(cache.why), name


def made(kind: str, whole: float, compile_ms: float, **changes: object) -> Start:
    told = {"process": 100.0, "weights": whole - compile_ms - 100, "compile": compile_ms}
    return Start(kind, told, whole, 20.0, **changes)  # type: ignore[arg-type]


def test_tables_and_plot_show_a_real_start_whose_phases_add_up() -> None:
    starts = [made(COLD, whole, 300, resident=0.002) for whole in (900, 5000, 1000)]
    starts += [made(KEPT, 500, 30), Start(KEPT, error="it broke")]
    assert middle(starts[:3]).whole_ms == 1000
    report = bench_samples.report()
    report.backends[0].starts = Starts("dropped", "an empty folder by X", starts)
    report.backends[1].starts = Starts("dropped", "kept: of macOS", [made(KEPT, 700, 1)])
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(table.render(report))
    for text in (console.export_text(), html.render(report)):
        assert "1,000" in text and "900, 5,000" in text and "caches kept" in text
        assert "at most 0.2% of them in memory before a cold start" in text
        assert "compiling cold is not split from compiling cached" in text
    (figure,) = [each for each in plots.figures(report) if each.plot.name == "starts"]
    bars = [mark for mark in figure.plot.marks if mark.kind == "bar"]
    assert [sum(b.points[1][0] - b.points[0][0] for b in bars[n : n + 3]) for n in (0, 3, 6)] == [
        pytest.approx(whole) for whole in (700, 500, 1000)
    ]


def test_a_cache_that_stays_empty_is_said_so() -> None:
    report = bench_samples.report()
    report.backends[0].starts = Starts("d", "an empty folder by X", [made(COLD, 900, 300)])
    report.backends[0].starts.starts[0].compiled_files = 0
    assert "nothing was compiled into it" in html.render(report)
    report.backends[0].starts.starts[0].compiled_files = 4
    assert "nothing was compiled into it" not in html.render(report)
