"""The experiment on reduction: its fence, its figures, and what the project's own way reaches."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.picture.image import to_frame_rgb
from sdxs.common.picture.size import FrameSize
from sdxs.experiments.__main__ import main
from sdxs.experiments.measure import averaging
from sdxs.experiments.measure.averaging import KINDS, WAYS, Fence, panned, steadiness

GIVEN = FrameSize(1920, 1080)


def test_a_fence_keeps_its_light_at_every_size() -> None:
    """The exact areas of a large pixel are the means of those of its small ones."""
    fence = Fence.of(KINDS["middle"])
    small, large = fence.row(0.1, 0.9, 600), fence.row(0.1, 0.9, 200)
    np.testing.assert_allclose(small.reshape(200, 3).mean(axis=1), large)
    assert small.min() < 25 and small.max() > 235


def test_the_ways_differ_as_they_were_reported() -> None:
    """Linear interpolation by 4 changes bars of 2 in 7 pixels by 73 levels a frame, areas by 34."""
    wanted = FrameSize(256, 256)
    pictures = panned(KINDS["bars"], GIVEN, wanted, 8)
    found = {name: steadiness(way, pictures, wanted) for name, way in WAYS.items()}
    assert found["linear"]["change"] == pytest.approx(73, abs=1)
    assert found["INTER_AREA"]["change"] == pytest.approx(34, abs=1)
    assert found["sdxs"]["change"] < 0.5 * found["linear"]["change"]
    assert found["sdxs"] == found["whole pixels"]  # four times is two by two, twice


@pytest.mark.parametrize("side", [280, 320, 350])
def test_three_times_the_size_comes_near_the_exact_areas(side: int) -> None:
    wanted = FrameSize(side, side)
    pictures = panned(KINDS["middle"], GIVEN, wanted, 6)
    off = {name: steadiness(way, pictures, wanted)["off"] for name, way in WAYS.items()}
    assert off["sdxs"] < 0.5 * off["whole pixels"] < off["linear"]
    assert off["sdxs"] < 10


@pytest.mark.parametrize("shape", [(90, 70), (70, 90), (90, 96), (60, 45), (30, 90), (64, 33)])
def test_every_pixel_has_its_share_in_every_direction(shape: tuple[int, int]) -> None:
    """Bug before: a reduction that skips pixels, or shifts what it reads."""
    out = np.empty((30, 32, 3), np.uint8)
    ramp = np.linspace(20, 220, shape[0])[:, None] + np.linspace(-20, 20, shape[1])[None, :]
    to_frame_rgb(np.rint(np.repeat(ramp[..., None], 3, 2)).astype(np.uint8), out, fit="stretch")
    rows = 20 + 200 * ((np.arange(30) + 0.5) / 30 * shape[0] - 0.5) / (shape[0] - 1)
    columns = -20 + 40 * ((np.arange(32) + 0.5) / 32 * shape[1] - 0.5) / (shape[1] - 1)
    expected = np.clip(rows, 20, 220)[:, None] + np.clip(columns, -20, 20)[None, :]
    assert np.abs(out[..., 0] - expected).max() < 2


def test_it_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "PICTURES", (FrameSize(96, 54),))
    monkeypatch.setattr(averaging, "FRAMES", (FrameSize(16, 16),))
    path = tmp_path / "averaging.json"
    options = ["--rounds", "2", "--repeats", "1", "--frames", "3", "--json", str(path)]
    assert main(["averaging", *options]) == 0
    (row,) = json.loads(path.read_text(encoding="utf-8"))["reductions"]
    assert set(row["ways"]) == set(WAYS)
    for found in row["ways"].values():
        assert 0 < found["ms"]["min"] <= found["ms"]["median"] <= found["ms"]["max"]
        assert found["ms"]["count"] == 2 and set(found["fences"]) == set(KINDS)
    monkeypatch.setattr(averaging, "MOST_MS", 0.0)
    assert main(["averaging", *options]) == 1
