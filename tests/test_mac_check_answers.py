"""mac-check: what single questions answer, in this process and on the interpreter."""

import ctypes
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fake_coreml import StrictModel, compile_model
from sdxs.common import system
from sdxs.common.backend.protocol import StageTimes
from sdxs.common.bench.measure import mac_tools
from sdxs.common.checkpoint.find import find
from sdxs.common.io.sources import permission
from sdxs.common.io.sources.permission import Permission
from sdxs.coreml_backend.cache import Built
from sdxs.coreml_backend.inputs import SPARE_REFERENCES
from sdxs.coreml_backend.ops import ct
from sdxs.mac_check import (
    behaviour,
    camera,
    coreml,
    facts,
    films,
    kernel,
    loading,
    mlx,
    models,
    operations,
    unified,
)
from sdxs.mac_check.child import plain
from sdxs.mac_check.models import DEMO, DREAMSHAPER, SKETCH
from sdxs.mac_check.setup import Answer, Setup

SIZE = 32

# what is around the programs is tested here: each is built once a run
pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path))
    return tmp_path


def setup(
    scratch: Path,
    chosen: Mapping[str, str] | None = None,
    values: Mapping[str, float | str] | None = None,
    model: models.Model = DEMO,
) -> Setup:
    """A question about the demo, or its like with a ControlNet, at a tiny size."""
    folder = str(find(model.base, download=False).folder)
    asked = chosen or {"attention": "matmul", "compute_units": "cpu_and_gpu"}
    return Setup(
        folder,
        model.name,
        str(scratch),
        SIZE,
        "reference",
        2,
        model.control,
        model.vae,
        asked,
        values or {},
    )


def write_exact(scratch: Path) -> None:
    assert coreml.ask_exact(setup(scratch)) == {"ok": True}


def test_a_variant_is_compared_with_the_exact_picture(scratch: Path) -> None:
    asked = setup(scratch)
    missing = coreml.ask_variant(asked)
    assert missing["ok"] is False and missing["error"] == "no exact picture to compare with"
    assert missing["frame_ms"], "its other figures are kept"
    write_exact(scratch)
    assert coreml.nearness(np.load(asked.exact_path), asked)["psnr_db"] == coreml.MOST_PSNR_DB
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    far = coreml.nearness(noise, asked)
    assert far["ok"] is False and far["psnr_db"] < 35  # type: ignore[operator]
    assert coreml.nearness(noise, asked, compressed=True)["ok"] is True


def test_a_plan_that_raises_costs_no_other_figure(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_exact(scratch)

    def raises(*_: object) -> None:
        raise RuntimeError("no compute plan")

    monkeypatch.setattr(coreml, "plan_summaries", raises)
    answer = coreml.ask_variant(setup(scratch))
    assert answer["ok"] is True and answer["psnr_db"] > 45  # type: ignore[operator]
    assert answer["compute_plan_error"] == "RuntimeError: no compute plan"


@pytest.mark.slow
def test_a_model_with_a_controlnet_is_rendered_under_it(scratch: Path) -> None:
    asked = setup(scratch, model=SKETCH)
    coreml.ask_exact(asked)
    checkpoint = asked.checkpoint()
    backend = behaviour.loaded(asked)
    controlled = coreml.render(backend, checkpoint, SIZE, 1)[0]
    backend.close()
    assert checkpoint.control and coreml.nearness(controlled, asked)["ok"]


class Pipe:
    """A backend that has several frames in flight and takes `seconds` for each, by a fake clock."""

    name, depth = "pipe", 3

    def __init__(self, seconds: float) -> None:
        self.clock, self.in_flight, self.most, self._seconds = 0.0, 0, 0, seconds

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None: ...

    def set_params(self, params: object) -> None: ...

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)

    def collect(self, out: np.ndarray) -> StageTimes:
        self.in_flight -= 1
        self.clock += self._seconds
        return StageTimes(1, 1)


@pytest.mark.parametrize(("seconds", "count"), [(0.01, 10), (20.0, 4)])
def test_slow_frames_end_a_timing_early(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, count: int
) -> None:
    pipe = Pipe(seconds)
    monkeypatch.setattr(coreml.time, "perf_counter", lambda: pipe.clock)
    checkpoint = setup(scratch).checkpoint()
    _, intervals, _ = coreml.render(pipe, checkpoint, SIZE, 10)  # type: ignore[arg-type]
    assert len(intervals) == count and pipe.in_flight == 0 and pipe.most == 3


def test_images_round_as_arrays_do(scratch: Path) -> None:
    answer = behaviour.ask_image_rounding(setup(scratch))
    assert answer["ok"] is True and answer["largest_difference"] == 0


def test_feedback_is_compared_frame_by_frame(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviour, "FEEDBACK_FRAMES", 3)
    answer = behaviour.ask_feedback(setup(scratch))
    assert answer["ok"] is True and len(answer["frames_db"]) == 3  # type: ignore[arg-type]
    # without feedback in one of them, all but the first frame would differ
    params = behaviour.probe_params
    monkeypatch.setattr(
        behaviour,
        "probe_params",
        lambda checkpoint, feedback=0.0: params(checkpoint, feedback if calls.pop() else 0.0),
    )
    calls = [0, 1]
    wrong = behaviour.ask_feedback(setup(scratch))
    first, *others = wrong["frames_db"]  # type: ignore[misc]
    assert first > 45 and max(others) < first


@pytest.mark.parametrize("module", [behaviour, mlx], ids=["coreml", "mlx"])
def test_an_overflow_is_noticed_and_forgotten(
    module: ModuleType, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = module.ask_overflow(setup(scratch))
    assert answer["ok"] is True and "not finite" in answer["noticed"][0]
    assert answer["largest_difference"] == 0
    monkeypatch.setattr("sdxs.mac_check.coreml.OVERFLOWS", 1.0)
    assert module.ask_overflow(setup(scratch))["ok"] is False, "nothing was noticed"


def test_unified_memory_is_read_of_both_frameworks(scratch: Path) -> None:
    for chosen in ({}, {"attention": "matmul", "compute_units": "cpu_and_gpu"}):
        asked = replace(setup(scratch), chosen=chosen)
        answer = unified.ask_accounts(asked)
        account, framework = answer["account"], answer["framework"]
        assert isinstance(account, dict) and isinstance(framework, dict)
        assert account["told_by"] and account["resident_bytes"] > 10_000_000
        assert framework["model_bytes"] > 1_000_000
        if sys.platform == "linux":  # what a Mac's tools print is the question itself
            assert answer["ok"] is True and answer["explained"] is not None


def test_a_tool_whose_table_is_unknown_is_shown_as_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unified, "asked", lambda *command: "vmmap: another table")
    read = unified._read(mac_tools.from_vmmap, "vmmap")
    assert read["read"] is False and read["begins"] == "vmmap: another table"


def test_a_prompt_is_changed_and_changed_back(scratch: Path) -> None:
    answer = behaviour.ask_prompt_change(setup(scratch))
    assert answer["ok"] is True and answer["largest_difference_after_changing_back"] == 0
    assert answer["prompts_differ_db"] < 60  # type: ignore[operator]


def test_predictions_with_pauses_between_them(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_exact(scratch)
    idled: list[float] = []
    monkeypatch.setattr(behaviour, "allocate_for", idled.append)
    answer = behaviour.ask_idle_predictions(setup(scratch, values={"idle_s": 1.5, "times": 3}))
    assert answer["ok"] is True and idled == [1.5, 1.5, 1.5, behaviour.LINGER_S]


def test_a_program_is_loaded_again_and_after_a_rename(scratch: Path) -> None:
    write_exact(scratch)

    def load(step: str, at: str, to: str) -> Answer:
        return loading.ask_load(setup(scratch, values={"load": step, "at": at, "to": to}))

    first, again, renamed = (load("", "a", "a"), load("", "a", "a"), load("", "a", "b"))
    assert "compile_s" in first and "compile_s" not in again and "compile_s" not in renamed
    for answer in (first, again, renamed):
        assert answer["ok"] is True and answer["load_s"] > 0  # type: ignore[operator]
        assert answer["first_frame_ms"] > 0  # type: ignore[operator]
    assert not (scratch / "a.mlmodelc").exists() and (scratch / "b.mlmodelc").exists()


def test_core_ml_is_given_the_strategy_and_the_units(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    monkeypatch.setattr(
        ct.models, "CompiledMLModel", lambda *arguments, **more: given.extend([*arguments, more])
    )
    chosen = {"attention": "sdpa", "compute_units": "cpu_and_ne", "runtime": "coreml"}
    asked = replace(setup(scratch, chosen, {"hint": "FastPrediction"}), runtime="coreml")
    loading._load(scratch / "a.mlmodelc", Built(scratch), asked)
    path, units, more = given
    assert path == str(scratch / "a.mlmodelc") and units == ct.ComputeUnit.CPU_AND_NE
    assert more == {
        "optimization_hints": {"specializationStrategy": ct.SpecializationStrategy.FastPrediction}
    }


@pytest.mark.thorough
def test_two_processes_load_one_package(scratch: Path) -> None:
    write_exact(scratch)
    answer = loading.ask_two_loaders(setup(scratch))
    assert answer["ok"] is True and answer["errors"] == []
    assert answer["between_them_db"] == coreml.MOST_PSNR_DB


def test_a_loader_that_fails_beside_another_is_named(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def load(self) -> None:
            raise RuntimeError("Directory not empty")

        def close(self) -> None: ...

    monkeypatch.setattr(loading, "hosted_backend", lambda *_: Broken())
    failed = loading.ask_two_loaders(setup(scratch))
    assert failed["ok"] is False and failed["errors"] == ["RuntimeError: Directory not empty"] * 2


def test_group_norm_in_float64_is_normal() -> None:
    x = 3 + 20 * np.random.default_rng(0).standard_normal((1, 960, 4, 4))
    grouped = operations.group_norm(x).reshape(operations.GROUPS, -1)
    assert np.allclose(grouped.mean(1), 0) and np.allclose(grouped.std(1), 1, atol=1e-4)
    elements = np.prod(operations.NORM_SHAPE) // operations.GROUPS
    assert elements == 122_880


def test_scores_are_beyond_float16_and_the_result_is_not() -> None:
    q, k, v = operations.attention_inputs()
    scores = q[0] @ k[0].T
    assert scores.max() > 65504 and abs(scores.min()) < 1
    assert scores.max() / np.sqrt(operations.HEAD_DIM) < 65504
    assert np.isfinite(operations.attention(q, k, v)).all()


@pytest.mark.parametrize("form", ["matmul", "split_einsum"])
def test_a_form_that_scales_early_survives_them(scratch: Path, form: str) -> None:
    answer = operations.ask_attention(setup(scratch, values={"form": form, "units": "cpu_only"}))
    assert answer["ok"] is True and answer["error"] < 1e-3  # type: ignore[operator]


@pytest.mark.parametrize("form", ["matmul", "split_einsum"])
def test_core_ml_gets_the_inputs_of_an_operation_as_its_bridge_wants_them(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(StrictModel, "made", [])
    monkeypatch.setattr(ct.models, "CompiledMLModel", StrictModel)
    monkeypatch.setattr(ct.models.utils, "compile_model", compile_model)
    held: list[np.ndarray] = []
    right = operations.kept
    monkeypatch.setattr(operations, "kept", lambda array: held.append(right(array)))
    asked = replace(setup(scratch, values={"form": form, "units": "cpu_and_ne"}), runtime="coreml")
    assert operations.ask_attention(asked)["ok"] is True
    (model,) = StrictModel.made
    assert model.compute_unit == ct.ComputeUnit.CPU_AND_NE
    # the last reference to an input is never Core ML's (coremltools#2827)
    assert len(held) == 3
    assert all(sys.getrefcount(array) > SPARE_REFERENCES for array in held)


def test_a_result_that_is_not_finite_is_not_ok(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_run", lambda model, given: np.array([np.nan]))
    answer = operations.ask_attention(setup(scratch, values={"form": "matmul"}))
    assert answer["ok"] is False and json.loads(json.dumps(plain(answer)))["error"] == "inf"


def test_the_kernel_may_err_as_much_as_twice_the_own_form() -> None:
    assert kernel.passes("float32", {"kernel": 2.9e-6, "own": 1e-9})
    assert kernel.passes("float32", {"kernel": 8e-6, "own": 4e-6})
    assert not kernel.passes("float32", {"kernel": 8e-6, "own": 3e-6})
    assert not kernel.passes("float16", {"kernel": 2e-3, "own": 5e-4})
    assert not kernel.passes("float32", {"kernel": float("nan"), "own": 1e-6})


def test_mlx_answers_with_errors_and_times(scratch: Path, tmp_path: Path) -> None:
    write_exact(scratch)
    frame = mlx.ask_frame(setup(scratch))
    assert frame["ok"] is True and frame["frame_ms"]["count"] == 1  # type: ignore[index]
    folder = tmp_path / DREAMSHAPER.base
    values = {"architecture": DREAMSHAPER.architecture, "tiny": 1, "winograd": 0}
    asked = Setup(str(folder), "random", str(scratch), 64, "reference", 2, values=values)
    assert models.ask_write(asked)["bytes"] > 1e5  # type: ignore[operator]
    answer = mlx.ask_winograd(asked)
    if answer["dtype"] == "float32":  # no GPU: both are the same
        assert answer["x0_relative_l2"] == 0 and answer["psnr_db"] == np.inf
    assert answer["frame_ms"]["count"] == 1  # type: ignore[index]


def test_padded_heads_attend_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlx, "HEADS", ((40, 2, 16, 16, (64,)),))
    monkeypatch.setattr(kernel, "REPEATS", 2)
    (answer,) = mlx.ask_heads(Setup("", "", ""))["heads"]  # type: ignore[misc]
    assert answer["us"].keys() == {"40", "64"}
    assert max(answer["error"].values()) < (1e-2 if mlx.on_gpu() else 1e-6)


def test_a_call_that_holds_the_lock_shows() -> None:
    """One long call each: on a busy machine the gaps between short calls would count for more."""
    # Unlike CDLL, calls keep the lock.
    held = behaviour.speed_kept(lambda: ctypes.PyDLL(None).usleep(500_000))
    released = behaviour.speed_kept(lambda: ctypes.CDLL(None).usleep(500_000))
    assert held < 0.5 * released, (held, released)


@pytest.mark.parametrize(
    ("status", "said"),
    [(Permission.NOT_ASKED, "not asked"), (Permission.DENIED, "denied"), (None, "unknown")],
)
def test_a_camera_is_opened_only_if_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, status: Permission | None, said: str
) -> None:
    from sdxs.common.picture.opencv import cv2

    opened: list[int] = []
    monkeypatch.setattr(cv2, "VideoCapture", opened.append)
    monkeypatch.setattr(permission, "camera_permission", lambda: status)
    answer = camera.ask_camera(Setup("", "", ""))
    assert answer == {"ok": True, "asked": False, "permission": said} and not opened


def test_an_allowed_camera_says_its_size_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    from sdxs.common.picture.opencv import cv2

    class Capture:
        released = False

        def __init__(self, index: int) -> None:
            assert index == 0

        def read(self) -> tuple[bool, np.ndarray]:
            return True, np.zeros((480, 640, 3), np.uint8)

        def get(self, what: int) -> float:
            return float("nan") if what == cv2.CAP_PROP_FPS else 640.0

        def isOpened(self) -> bool:
            return True

        def getBackendName(self) -> str:
            return "AVFOUNDATION"

        def release(self) -> None:
            Capture.released = True

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr(permission, "camera_permission", lambda: Permission.ALLOWED)
    answer = plain(camera.ask_camera(Setup("", "", "")))
    assert answer["frame"] == [480, 640, 3] and answer["reported"]["fps"] == "nan"  # type: ignore[index, call-overload]
    assert Capture.released


def test_films_are_written_and_read_by_every_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FRAMES", 6), ("HEIGHT", 72), ("WIDTH", 128)):
        monkeypatch.setattr(films, name, value)
    answer = plain(films.ask_films(Setup("", "", "")))
    assert answer["ok"] and answer["in_the_films_process"] == ["av"]
    assert "av" not in answer["in_this_process"]  # type: ignore[operator]
    codecs = answer["codecs"]
    assert isinstance(codecs, dict) and set(codecs) == {"h264", "hevc", "prores"}
    assert all(each["frames"] == 6 for each in codecs.values())
    monkeypatch.setattr(films, "MOST_OFF", -1)
    assert not films.ask_films(Setup("", "", ""))["ok"], "a picture that is off is told"


def test_the_facts_of_a_mac_come_from_its_own_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python linked against an older SDK would say 16.0 there."""
    programs = {
        "sw_vers": "case $1 in -productVersion) echo 26.1;; -buildVersion) echo 25B78;; esac",
        "system_profiler": "echo '  Chipset Model: Apple M9'; echo '  Total Number of Cores: 40'",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(system, "sys", type("System", (), {"platform": "darwin"}))
    system._sw_vers.cache_clear()
    monkeypatch.setattr(facts.platform, "mac_ver", lambda: ("16.0", ("", "", ""), ""))
    found = facts.system()
    assert (found["macos"], found["build"], found["python_mac_ver"]) == ("26.1", "25B78", "16.0")
    assert found["gpu"] == "Chipset Model: Apple M9, Total Number of Cores: 40"
    assert system.macos_major() == 26
    system._sw_vers.cache_clear()
    assert facts.wheel_tag("mlx").count("-") >= 2 and facts.wheel_tag("no-such-package") == ""


def test_reports_of_crashes_meanwhile_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "CRASH_REPORTS", tmp_path)
    for name, age in (("python3.12-old.ips", -100), ("Python-new.ips", 100), ("Finder.ips", 100)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 + age,) * 2)
    assert facts.crash_reports(1000) == ["Python-new.ips"]
