"""Core AI by the command line and the API, in the child processes that a user has."""

from pathlib import Path

import numpy as np
import pytest

import coreai_here  # noqa: F401 - skips this file where Apple's runtime cannot run
from command import Command
from sdxs.api import open_model
from sdxs.coreai_backend.options import has_framework

ROOT = Path(__file__).parent.parent
CAT = ROOT / "docs" / "demo" / "cat.jpg"

pytestmark = pytest.mark.skipif(has_framework(), reason="this is what the package alone says")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(autouse=True)
def weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(folder))
    return folder


def test_convert_builds_checks_and_lists(command: Command, weights: Path) -> None:
    line = ("convert", "--backend", "coreai", "--model", "demo", "--size", 64)
    done = command(*line)
    assert done.code == 0
    assert "Core AI program of demo is ready" in done.out
    assert "Apple's CPU runtime rendered a probe frame as MLX does" in done.out
    assert "not built before" in done.err
    (program,) = (weights / "coreai").glob("demo-*")
    again = command(*line)
    assert again.code == 0 and "built and checked" not in again.err
    listed = command("convert", "--backend", "coreai", "--list")
    assert "Core AI programs" in listed.out and "demo" in listed.out and "dB" in listed.out
    assert [path for path in (weights / "coreai").iterdir() if path.is_dir()] == [program]


def test_live_says_that_this_is_apples_runtime_on_a_cpu(command: Command, tmp_path: Path) -> None:
    done = command(
        *("live", "--backend", "mlx", "--compare", "coreai", "--dtype", "float32"),
        *("--model", "demo", "--size", 64, "--source", CAT, "--headless", "--frames", 2),
        *("--prompt", "an oil painting", "--out", tmp_path / "cat.png"),
    )
    assert done.code == 0, done.err
    assert (tmp_path / "cat.png").stat().st_size > 0
    said = " ".join(done.out.split())
    assert "runtime Apple's CPU runtime, one core; its times are no speed of Core AI" in said
    assert "two backends rendered 2 frames" in said and "coreai-core 1.0.0b3" in said


def test_the_api_opens_it_by_name() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures = []
    for backend in ("coreai", "mlx"):
        with open_model("demo", backend=backend, size=64) as model:
            pictures.append(model(frame, "an oil painting", seed=5).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 4  # float16 beside MLX's float32
    assert pictures[0].std() > 5
