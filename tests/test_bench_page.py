"""The page of bench in a real browser: its plots are drawn, in light and in dark."""

import re
from dataclasses import replace
from pathlib import Path

import bench_samples
import cv2
import numpy as np
import pytest
from browser import browser, open_in

from command import Command
from sdxs.common.bench.model.paper import beside
from sdxs.common.bench.show import html, plots, svg
from sdxs.common.bench.show.svg import Axis

PLOTS = (
    "latency",
    "ratios",
    "picture",
    "rounds",
    "stages",
    "roofline",
    "contention",
    "memory",
    "copies",
    "bytes",
)
WIDTH, HEIGHT = 900, 5000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = bench_samples.report()
    report.paper = beside(report.work, report.backends)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.render(report), encoding="utf-8")
    return path


def test_every_plot_is_in_the_browsers_document_with_marks_and_readouts(
    page: Path, tmp_path: Path
) -> None:
    seen = open_in(browser(), tmp_path / "profile", "--dump-dom", page.as_uri())
    for name in PLOTS:
        drawn = re.search(rf'<svg id="{name}".*?</svg>', seen, re.DOTALL)
        assert drawn, f"no {name}"
        assert re.search(r"<(circle|rect|polyline|polygon)", drawn[0]), f"{name} is empty"
        assert "NaN" not in drawn[0] and "<title>" in drawn[0]
    assert "not the same machine" in seen


def test_light_and_dark_are_drawn(page: Path, tmp_path: Path) -> None:
    chromium, pictures = browser(), {}
    for mode, setting in (("light", 1), ("dark", 0)):
        shot = tmp_path / f"{mode}.png"
        open_in(
            chromium,
            tmp_path / mode,
            f"--blink-settings=preferredColorScheme={setting}",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={shot}",
            page.as_uri(),
        )
        pictures[mode] = cv2.imread(str(shot))
    corners = {mode: int(picture[2, 2].mean()) for mode, picture in pictures.items()}
    assert corners["light"] > 240 and corners["dark"] < 40
    for picture in pictures.values():
        saturation = np.ptp(picture.astype(np.int16), axis=2)
        assert (saturation > 60).sum() > 5_000  # coloured marks, not an empty frame


def test_the_page_has_a_plot_for_everything_measured_and_none_for_nothing() -> None:
    report = bench_samples.report()
    assert [figure.plot.name for figure in plots.figures(report)] == list(PLOTS)
    for backend in report.backends:
        backend.contention = backend.memory_over_time = backend.roofline = None
        backend.copies, backend.stages_ms, backend.picture = {}, {}, None
    assert [figure.plot.name for figure in plots.figures(report)] == ["latency", "ratios", "rounds"]
    for backend in report.backends:
        backend.rounds.clear()
    report.ratios.clear()
    assert not plots.figures(report) and "<h1>" in html.render(report)


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0, 10), ["0", "2", "4", "6", "8", "10"]),
        (Axis("", 0.001, 1000, True), ["0.001", "0.01", "0.1", "1", "10", "100", "1,000"]),
        (Axis("", 90, 400, True), ["100", "150", "200", "300", "400"]),
        (Axis("", 0, 25_000), ["0", "5,000", "10k", "15k", "20k", "25k"]),
    ],
)
def test_ticks_are_round_numbers(axis: Axis, ticks: list[str]) -> None:
    assert [svg.number(tick) for tick in axis.ticks()] == ticks


def test_images_of_every_plot(tmp_path: Path, command: Command) -> None:
    pytest.importorskip("resvg_py", reason="the plot extra is not installed")
    (tmp_path / "r.json").write_text(bench_samples.report().as_json())
    done = command("bench", "--show", tmp_path / "r.json", "--png", tmp_path / "plots")
    assert done.code == 0, done.err
    for name in PLOTS:
        picture = cv2.imread(str(tmp_path / "plots" / f"{name}.png"))
        assert picture is not None and picture.shape[1] > 1000 and np.ptp(picture) > 220
        assert tuple(picture[2, 2]) == (255, 255, 255)


def drawn(figure: plots.Figure, family: str | None = None) -> np.ndarray:
    png = pytest.importorskip("sdxs.common.bench.show.png")
    data = png._draw(figure, png._family() if family is None else family)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_an_image_has_the_colours_and_the_words_of_the_page() -> None:
    figure = plots.figures(bench_samples.report())[3]
    picture = drawn(figure)
    for colour in ((0x1F, 0x6F, 0xEB), (0xC2, 0x41, 0x0C)):  # --c0 and --c1 of report.css, light
        assert (picture == colour).all(axis=2).sum() > 500
    wordless = drawn(figure, "no such font")
    assert (picture != wordless).any(axis=2).sum() > 2_000


def test_an_image_of_many_backends_has_a_legend_of_many_lines() -> None:
    (figure, *_) = plots.figures(bench_samples.report())
    many = tuple((f"a backend with a long name {n}", f"c{n}") for n in range(9))
    taller = drawn(replace(figure, legend=many)).shape[0] - drawn(figure).shape[0]
    assert taller == 4 * 20 * 2  # two to a line, so five lines; two pixels for each of the page


def test_a_machine_without_fonts_is_told_so(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    png = pytest.importorskip("sdxs.common.bench.show.png")
    monkeypatch.setattr(png, "FAMILIES", ("no such font",))
    (tmp_path / "r.json").write_text(bench_samples.report().as_json())
    done = command("bench", "--show", tmp_path / "r.json", "--png", tmp_path / "plots")
    assert done.code == 1 and "install one of no such font" in done.err
    assert not list((tmp_path / "plots").iterdir())
