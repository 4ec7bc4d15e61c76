"""mac-check: its rehearsal on the interpreter, and its answers to failures."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.testing.random_checkpoint import architecture, tiny
from sdxs.mac_check import fixtures
from sdxs.mac_check import questions as mac_check
from sdxs.mac_check.questions import QUESTIONS, Setup, run, speed_kept

SIZE = 64

# what is around the programs is tested here: each is built once a run
pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture
def setup(demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path))
    return Setup(demo, SIZE, "reference", soak_s=0.0, frames=2)


@pytest.mark.skipif(sys.platform == "darwin", reason="it runs there")
def test_elsewhere_one_clear_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdxs.cli", "mac-check"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: mac-check asks Core ML and Metal what only they can tell, so it needs macOS; run "
        "it on a Mac"
    ]


def test_a_rehearsal_answers_every_question(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mac_check, "VARIANTS", (mac_check.VARIANTS[0], mac_check.VARIANTS[-1]))
    said: list[str] = []
    answers = run(setup, said.append)
    assert answers.keys() == QUESTIONS.keys() and len(said) == len(QUESTIONS)
    assert all(answer["ok"] for answer in answers.values()), answers
    plain, placed = answers["core ml"]["variants"]  # type: ignore[misc]
    assert (
        plain["psnr_db"] > 45
        and placed["placement"] == mac_check.NE_GPU_NE
        and placed["psnr_db"] > 45
    )
    assert (
        plain["frame_ms"]["count"] == 1
        and placed["footprint_at_end_bytes"] > plain["footprint_at_end_bytes"] > 1e7
    )
    assert answers["image rounding"]["largest_difference"] == 0
    assert 0 < answers["gil"]["speed_kept"] < 2  # type: ignore[operator]
    assert answers["soak"]["frames"] >= 16  # type: ignore[operator]
    assert answers["mlx"]["dtype"] == "float32" or sys.platform == "darwin"


def test_what_fails_is_an_answer_and_the_rest_goes_on(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fails(_: Setup) -> dict[str, object]:
        raise RuntimeError("Error in declaring network.")

    def works(_: Setup) -> dict[str, object]:
        asked.append("second")
        return {"ok": True}

    monkeypatch.setattr(mac_check, "QUESTIONS", {"first": fails, "second": works})
    answers = run(setup, lambda line: None)
    assert (
        answers["first"]["ok"] is False
        and answers["first"]["error"] == "RuntimeError: Error in declaring network."
    )
    assert asked == ["second"] and answers["second"]["ok"]


def test_a_variant_that_cannot_load_or_is_off_is_noted_by_itself(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_: Setup, chosen: dict[str, str], _exact: np.ndarray) -> dict[str, object]:
        if chosen["compute_units"] == "all":
            raise RuntimeError("no such unit")
        return {**chosen, "ok": True}

    monkeypatch.setattr(mac_check, "ask_variant", ask)
    monkeypatch.setattr(mac_check, "exact_picture", lambda _: np.zeros((SIZE, SIZE, 3), np.uint8))
    monkeypatch.setattr(
        mac_check, "VARIANTS", ({"compute_units": "all"}, {"compute_units": "cpu_only"})
    )
    answer = mac_check.ask_variants(setup)
    assert not answer["ok"]
    assert answer["variants"] == [
        {"compute_units": "all", "ok": False, "error": "RuntimeError: no such unit"},
        {"compute_units": "cpu_only", "ok": True},
    ]


def test_a_picture_that_is_off_is_not_ok(setup: Setup) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    answer = mac_check.ask_variant(setup, {"attention": "matmul"}, noise)
    assert answer["ok"] is False and answer["psnr_db"] < 35  # type: ignore[operator]


@pytest.mark.parametrize("good", [True, False])
def test_the_file_says_what_it_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command, good: bool
) -> None:
    monkeypatch.setattr(mac_check, "QUESTIONS", {"only": lambda _: {"ok": good}})
    path = tmp_path / "mac.json"
    done = command("mac-check", "--runtime", "reference", "--quick", "--json", path)
    assert done.code == (0 if good else 1), done.err
    content = json.loads(path.read_text())
    assert "NOT Core ML" in content["rehearsal"] and content["environment"]["coremltools"]
    assert content["models"]["demo"]["only"]["ok"] is good
    assert str(path) in done.out


def test_a_wheel_lacks_the_stored_outputs_and_the_error_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    asked: list[Setup] = []
    monkeypatch.setattr(mac_check, "QUESTIONS", {"only": asked.append})
    monkeypatch.setattr(fixtures, "FIXTURES", tmp_path / "tests" / "fixtures")
    path = tmp_path / "mac.json"
    done = command("mac-check", "--runtime", "reference", "--json", path)
    assert done.code == 2 and not asked and not path.exists()
    assert done.err.startswith("error: parity.safetensors: not found in ")
    assert "an installed wheel does not hold" in done.err and "clone the repository" in done.err


def test_a_file_that_cannot_be_written_is_refused_before_any_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    asked: list[Setup] = []
    monkeypatch.setattr(mac_check, "QUESTIONS", {"only": asked.append})
    done = command("mac-check", "--runtime", "reference", "--json", tmp_path / "no" / "mac.json")
    assert done.code == 1 and not asked and "cannot be written" in done.err


def test_the_full_model_is_asked_about_unless_the_check_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(mac_check, "QUESTIONS", {"only": lambda _: {"ok": True}})
    monkeypatch.setattr(mac_check, "architecture", lambda name: tiny(architecture(name)))
    path = tmp_path / "mac.json"
    assert command("mac-check", "--runtime", "reference", "--json", path).code == 0
    models = json.loads(path.read_text())["models"]
    assert {name: asked["size"] for name, asked in models.items()} == {
        "demo": 256,
        "sdxs-512-0.9-random": 512,
    }


def test_a_call_that_holds_the_lock_shows() -> None:
    """One long call each: on a busy machine the gaps between short calls would count for more."""
    # Unlike CDLL, calls keep the lock.
    held = speed_kept(lambda: ctypes.PyDLL(None).usleep(500_000))
    released = speed_kept(lambda: ctypes.CDLL(None).usleep(500_000))
    assert held < 0.5 * released, (held, released)
