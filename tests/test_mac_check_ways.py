"""mac-check: the ways to call Core ML, rehearsed, and the rule that chooses between them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fake_pyobjc
from fake_pyobjc import World
from sdxs.common.checkpoint.find import find
from sdxs.coreml_backend import objc_values, prepare
from sdxs.coreml_backend.objc_model import PyObjCModel
from sdxs.mac_check import report, verdict, ways
from sdxs.mac_check.coreml import ask_exact
from sdxs.mac_check.models import DEMO
from sdxs.mac_check.question import Plan
from sdxs.mac_check.questions import table
from sdxs.mac_check.setup import WAYS, Answer, Setup

SIZE = 32
GPU = {"attention": "matmul", "compute_units": "cpu_and_gpu"}

pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path))
    folder = str(find("demo", download=False).folder)
    made = Setup(folder, "demo", str(tmp_path), SIZE, "reference", 2, chosen=GPU)
    ask_exact(made)
    return made


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = fake_pyobjc.install(monkeypatch)
    monkeypatch.setattr(prepare, "sys", type("System", (), {"platform": "darwin"}))
    yield made
    made.settle()


def test_pyobjc_is_asked_what_the_bridge_is(setup: Setup, world: World) -> None:
    asked = replace(setup, runtime="coreml", values={"way": "pyobjc here", "cycles": 2})
    answer = ways.ask_way(asked)
    assert answer["ok"] is True and answer["cycles"] == 2, answer
    assert len(world.made) == 2, "every cycle loads"
    assert answer["psnr_db"] > 45 and answer["frame_ms"]["count"] == 1  # type: ignore[index,operator]
    assert answer["bridge_ms"]["count"] == 1  # type: ignore[index]
    picture = SIZE * SIZE * 3
    expected = {"backend in": 4 * picture, "to 8 bits": picture, "backend out": picture}
    assert answer["copied_bytes"] == expected, "no memory of Core ML's own"
    assert 0 <= answer["gil_share"] <= 1  # type: ignore[operator]
    assert world.settle() == []


@pytest.mark.slow
def test_what_a_session_meets_is_asked_of_pyobjc(setup: Setup, world: World) -> None:
    asked = replace(setup, runtime="coreml", values={"way": "pyobjc here"})
    world.ignores_backings = True
    picture, latents = SIZE * SIZE * 3, 16 * (SIZE // 8) ** 2
    counted = ways.ask_way(asked)["copied_bytes"]
    assert counted["another backing"] == 4 * (picture + latents + 1)  # type: ignore[index]
    world.ignores_backings = False
    assert ways.ask_feedback(asked)["ok"] is True
    assert ways.ask_prompt_change(asked)["ok"] is True
    assert ways.ask_overflow(asked)["ok"] is True
    idle = replace(asked, values={**asked.values, "idle_s": 0.0, "times": 2})
    assert ways.ask_idle_predictions(idle)["ok"] is True
    assert world.settle() == []


def test_a_way_whose_picture_changes_from_load_to_load_is_not_right(
    setup: Setup, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, loads = PyObjCModel.predict, list[int]()

    def drifts(self: PyObjCModel, *given: object) -> dict[str, np.ndarray]:
        made = right(self, *given)  # type: ignore[arg-type]
        loads.append(id(self))
        made["image"] = np.minimum(made["image"] + len(set(loads)), 255)
        return made

    monkeypatch.setattr(PyObjCModel, "predict", drifts)
    monkeypatch.setattr(ways, "_measured", lambda *_: {})
    asked = replace(setup, runtime="coreml", values={"way": "pyobjc here", "cycles": 2})
    answer = ways.ask_way(asked)
    assert answer["ok"] is False and answer["largest_difference_between_cycles"] == 1


def test_without_pyobjc_the_question_is_not_asked(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objc_values, "find_spec", lambda name: None)
    asked = replace(setup, runtime="coreml", values={"way": "pyobjc here"})
    for ask in (ways.ask_way, ways.ask_feedback):
        answer = ask(asked)
        assert answer["asked"] is False and "pip install 'pyobjc-framework" in str(answer["note"])


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(each, marks=pytest.mark.thorough if number else pytest.mark.slow)
        for number, each in enumerate(WAYS)
    ],
)
def test_a_rehearsal_of_every_way(setup: Setup, way: str) -> None:
    answer = ways.ask_way(replace(setup, values={"way": way, "cycles": 2}))
    assert answer["ok"] is True, answer
    sites = answer["copied_bytes"].keys()  # type: ignore[attr-defined]
    assert ("to its process" in sites) == (way == "predict hosted")


def figures(way: str, ms: float, share: float = 0.0, **more: object) -> Answer:
    return {"way": way, "ok": True, "frame_ms": {"p50": ms}, "gil_share": share, **more}


HOSTED = figures("predict hosted", 30.0, 0.02)
HERE = figures("predict here", 25.0, 0.9)


@pytest.mark.parametrize(
    ("pyobjc", "default", "because"),
    [
        (figures("pyobjc here", 27.0, 0.05), "pyobjc here", "fits"),
        (figures("pyobjc here", 29.0, 0.05), "predict hosted", "97% of the hosted"),
        (figures("pyobjc here", 20.0, 0.2), "predict hosted", "stops other threads for 20%"),
        (
            figures("pyobjc here", 20.0) | {"ok": False, "died": "SIGSEGV"},
            "predict hosted",
            "not right: SIGSEGV",
        ),
        ({"way": "pyobjc here", "ok": True, "asked": False, "note": "x"}, "predict hosted", "x"),
    ],
)
def test_the_rule(pyobjc: Answer, default: str, because: str) -> None:
    found = verdict.verdict([HERE, HOSTED, pyobjc], rehearsed=False)
    assert found["default"] == default and found["rule"] == verdict.RULE
    reasons = found["because"]
    assert isinstance(reasons, dict) and because in reasons["pyobjc here"]
    assert "90% of a frame" in reasons["predict here"]


def test_nothing_is_decided_too_early_or_by_a_rehearsal() -> None:
    assert verdict.verdict([HERE], rehearsed=False)["default"] is None
    assert verdict.verdict([HOSTED], rehearsed=True)["default"] is None
    # where hosting itself fails, a way that works is better than none
    broken = HOSTED | {"ok": False, "error": "x"}
    chosen = verdict.verdict([broken, figures("pyobjc here", 99.0)], rehearsed=False)
    assert chosen["default"] == "pyobjc here"


def test_the_verdict_stands_in_the_file(tmp_path: Path) -> None:
    asked = [each for each in table(Plan(quick=True)) if each.group == "ways"]
    assert [each.values["way"] for each in asked] == list(WAYS)
    assert len({each.form for each in asked}) == 1, "they share a program"
    written = report.Report(tmp_path / "mac.json", Plan(quick=True), 0.0)
    answers = (HERE, HOSTED, figures("pyobjc here", 27.0))
    for question, answer in zip(asked, answers, strict=True):
        written.add(question, 256, answer)
    content = json.loads((tmp_path / "mac.json").read_text())
    group = content["models"][DEMO.name]["ways"]
    assert group["verdict"]["default"] == "pyobjc here"
    assert group["variants"][2]["way"] == "pyobjc here"
