"""The experiment on the roads of a film: each moves every picture; ratios are by round."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.io.sources.film import VideoFile
from sdxs.experiments.__main__ import main
from sdxs.experiments.measure import film_roads
from sdxs.experiments.measure.film_roads import HEIGHT, WIDTH, pictures, roads, summary


def test_the_film_moves_and_is_a_photograph() -> None:
    first, second = pictures(2)
    assert first.shape == (HEIGHT, WIDTH, 3) and first.dtype == np.uint8
    change = np.abs(first.astype(int) - second).mean()
    assert 1 < change < first.std()


def test_a_ratio_is_the_median_of_those_of_the_rounds() -> None:
    rounds = [
        {"sdxs": {"fps": 10.0 * slow}, "PyAV": {"fps": 10.0 * slow * faster}}
        for slow, faster in ((1, 2.0), (3, 2.5), (2, 1.0))
    ]
    found = summary(rounds)["PyAV"]["fps"]
    assert found == {"median": 20.0, "min": 20.0, "max": 75.0, "ratio": 2.0}


def test_ffmpeg_is_left_out_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_roads, "find_spec", lambda name: None)
    assert roads() == ["OpenCV", "PyAV", "sdxs"]


@pytest.mark.thorough
def test_every_road_moves_every_picture(tmp_path: Path) -> None:
    path = tmp_path / "roads.json"
    options = ["--rounds", "1", "--seconds", "0.2", "--beside", "0.1", "--json", str(path)]
    assert main(["film-roads", *options]) == 0
    written = json.loads(path.read_text(encoding="utf-8"))
    assert set(written["cases"]) == {
        f"{way}{beside}" for way in ("decoding", "encoding") for beside in ("", " beside work")
    }
    for case, by_road in written["cases"].items():
        assert set(by_road) == set(roads())
        assert all(each["fps"]["median"] > 0 for each in by_road.values())
        assert ("bytes" in by_road["sdxs"]) == (case == "encoding")
        assert by_road["sdxs"]["fps"]["ratio"] == 1


@pytest.mark.parametrize("road", ["OpenCV", "sdxs"])
def test_what_a_road_encodes_is_the_film(road: str, tmp_path: Path) -> None:
    """OpenCV's own reader is not asked: it would not see its own mistakes."""
    path = tmp_path / "film.mp4"
    film_roads.ENCODING[road](path, pictures(4))
    film = VideoFile(path)
    for expected in pictures(4):
        shown = film.read()
        assert shown is not None
        assert np.abs(shown[..., ::-1].astype(int) - expected).mean() < 12
    assert film.read() is None
    film.close()
