"""Core ML ends processes, holds inputs and keys its preparation by path: what guards against it."""

import gc
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import coremltools as ct
import fake_coreml_child
import numpy as np
import pytest

import fake_coreml
from command import Command
from fake_coreml import StrictModel, WarningModel, releases
from sdxs.common.backend.process.apart import run_apart
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, SdxsWarning
from sdxs.common.locks import locked
from sdxs.coreml_backend import cache, inputs, options, prepare, system_cache
from sdxs.coreml_backend.backend import CoreMLBackend
from sdxs.coreml_backend.instrument import open_model, write_copy
from sdxs.coreml_backend.options import CoreMLOptions, parse_placement
from sdxs.coreml_backend.prepare import find_or_build, warm_up
from sdxs.coreml_backend.programs import CoreMLPrograms
from sdxs.coreml_backend.runner import Runner

SIZE = 64
OPTIONS = CoreMLOptions(SIZE)

# what is around the programs is tested here: each is built once a run
pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake is Core ML in child processes, where alone it may be called."""
    monkeypatch.setattr(prepare, "sys", type("System", (), {"platform": "darwin"}))
    monkeypatch.setattr(options, "runs_here", lambda: True)
    monkeypatch.setattr(prepare, "apart", fake_coreml_child)
    StrictModel.made.clear()


def quiet(step: str, done: float) -> None:
    pass


def as_reference(demo: Checkpoint) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
    """A reference that renders what the program renders, from a package outside of the gate."""

    def render(picture: np.ndarray, states: np.ndarray, seed: int) -> np.ndarray:
        gate_options = CoreMLOptions(SIZE, runtime="reference", attention="matmul")
        backend = CoreMLBackend(demo, gate_options)
        backend.load()
        backend.set_conditioning(states)
        backend.submit(picture)
        out = np.empty_like(picture)
        backend.collect(out)
        backend.close()
        return out

    return render


# Inputs outlive every hold that Core ML has on them


def test_inputs_outlive_the_backend_and_serve_the_next(
    demo: Checkpoint, on_macos: list[str]
) -> None:
    backend = CoreMLBackend(demo, OPTIONS)
    backend.load()
    runner = backend._sections[0].runs._runners[0]  # type: ignore[union-attr]
    arrays = list(runner._inputs.values())
    addresses = {array.ctypes.data for array in arrays}
    alive = [weakref.ref(array) for array in arrays]
    assert all(sys.getrefcount(array) > inputs.SPARE_REFERENCES for array in arrays)
    del arrays, runner
    backend.close()
    gc.collect()
    assert releases() == [] and all(ref() is not None for ref in alive)
    again = CoreMLBackend(demo, OPTIONS)
    again.load()
    (used,) = again._sections[0].runs._runners  # type: ignore[union-attr]
    assert {array.ctypes.data for array in used._inputs.values()} == addresses
    again.close()


def test_a_runner_that_is_dropped_unclosed_gives_its_inputs_back(
    demo: Checkpoint, on_macos: list[str]
) -> None:
    """Bug: arrays that live until the process ends were lost with it, and others made."""
    backend = CoreMLBackend(demo, OPTIONS)
    backend.load()
    (runner,) = backend._sections[0].runs._runners  # type: ignore[union-attr]
    addresses = {array.ctypes.data for array in runner._inputs.values()}
    del runner, backend
    gc.collect()
    again = CoreMLBackend(demo, OPTIONS)
    again.load()
    (used,) = again._sections[0].runs._runners  # type: ignore[union-attr]
    assert {array.ctypes.data for array in used._inputs.values()} == addresses
    again.close()


def test_two_runners_never_share_an_input(demo: Checkpoint, on_macos: list[str]) -> None:
    first, second = inputs.lend((1, 4)), inputs.lend((1, 4))
    first[...] = 7
    assert not second.any()
    inputs.give_back([first])
    assert inputs.lend((1, 4)) is first and not first.any()
    inputs.give_back([first, second])


def test_the_fake_bites_who_frees_an_input(
    demo: Checkpoint, on_macos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: arrays lived as long as the model, and Core ML lets go of them a second later."""
    monkeypatch.setattr(inputs, "lend", lambda shape: np.zeros(shape, np.float32))
    monkeypatch.setattr(inputs, "give_back", lambda arrays: None)
    monkeypatch.setattr(Runner, "close", lambda self: None)
    backend = CoreMLBackend(demo, OPTIONS)
    backend.load()
    assert releases() == []
    backend.submit(np.zeros((SIZE, SIZE, 3), np.uint8))
    backend.close()
    del backend
    gc.collect()
    assert {"picture", "noise", "previous"} <= set(releases())
    StrictModel.freed.clear()


# What ends a process ends no command


@pytest.mark.parametrize(
    ("dies", "units", "says"),
    [
        ("load SIGABRT", "cpu_and_ne", "SIGABRT.*--compute-units cpu_and_gpu"),
        pytest.param(
            "predict SIGKILL",
            "cpu_and_ne",
            "SIGKILL.*Neural Engine.*--compute-units cpu_and_gpu",
            marks=pytest.mark.thorough,
        ),
        ("predict SIGSEGV", "cpu_and_gpu", "SIGSEGV.*--attention matmul or --backend mlx"),
        pytest.param(
            "predict SIGSEGV",
            "cpu_only",
            "SIGSEGV.*program: use --backend mlx$",
            marks=pytest.mark.thorough,
        ),
        ("predict SIGKILL", "cpu_and_gpu", "SIGKILL.*memory ran out"),
    ],
)
def test_core_ml_ends_a_child_and_the_command_says_so(
    command: Command,
    in_children: None,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies: str,
    units: str,
    says: str,
) -> None:
    monkeypatch.setenv("FAKE_COREML_DIES", dies)
    done = command("convert", "--model", "demo", "--size", SIZE, "--compute-units", units)
    assert done.code == 1
    *_, last = done.err.strip().splitlines()
    assert re.search(says, last), last
    assert "is ready" not in done.out and not list((weights / "coreml").iterdir())


def test_gate_warm_up_and_plan_run_in_children(
    demo: Checkpoint, in_children: None, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []
    (program,) = CoreMLPrograms().prepare(
        demo,
        OPTIONS,
        lambda picture, states, params, edges: as_reference(demo)(picture, states, params.seed),
        lambda step, done: steps.append(step),
        False,
    )
    assert StrictModel.made == [], "no model was loaded in this process"
    assert program.quality_db and "Core ML compiles frame" in steps
    assert any("half a minute to several minutes" in step for step in steps)
    said, *plan = program.plan()
    assert said.startswith("asked in process ") and str(os.getpid()) not in said
    assert "compute plan, frame on cpu_and_gpu" in plan[0]
    streams = capfd.readouterr()
    # stdout is for what the command itself says
    assert "what Core ML's compiler prints" in streams.err and streams.out == ""


def test_a_compiler_has_a_folder_that_is_removed_with_it(
    demo: Checkpoint, in_children: None, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a killed compiler left its files in the system's temporary folder."""
    built = find_or_build(demo, OPTIONS)
    places: list[str] = []

    def noted(*_: object, environment: dict[str, str], **__: object) -> None:
        places.append(environment["TMPDIR"])
        assert Path(places[-1]).is_dir()

    monkeypatch.setattr(prepare, "run_apart", noted)
    warm_up(demo, OPTIONS, built, quiet)
    assert Path(places[0]).parent == weights / "coreml"
    monkeypatch.setattr(cache, "cache_folder", lambda: weights / "nothing" / "here")
    warm_up(demo, OPTIONS, built, quiet)  # a folder that cannot be written to
    assert not any(Path(place).exists() for place in places) and len(places) == 2


def test_ctrl_c_ends_a_preparation_that_hangs(
    demo: Checkpoint, in_children: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_COREML_DIES", "load hang")
    built = find_or_build(demo, OPTIONS)
    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        warm_up(demo, OPTIONS, built, quiet)
    assert multiprocessing.active_children() == []


def test_a_function_apart_returns_reports_warns_and_raises() -> None:
    steps: list[tuple[str, float]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run_apart(
            "it", "fake_apart:twice", 21, report=lambda step, done: steps.append((step, done))
        )
    assert found == 42 and steps == [("double", 0.5)]
    assert [str(warning.message) for warning in caught] == ["21 is odd"]
    with pytest.raises(BackendError, match="nothing to double"):
        run_apart("it", "fake_apart:twice", 0)
    with pytest.raises(BackendError, match="it: .*did not answer in time"):
        run_apart("it", "fake_apart:wait", timeout_s=1.0)


# A program is prepared where it will be used


def test_a_program_is_compiled_and_gated_in_its_final_folder(
    demo: Checkpoint, on_macos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: Core ML prepared the program of a partial folder, which was then renamed."""
    compiled: list[Path] = []
    right = ct.models.utils.compile_model

    def noted(model: str, destination: str) -> str:
        compiled.append(Path(model))
        # the record comes last: a kill now leaves an unfinished folder
        assert not (Path(model).parent / cache.RECORD).exists()
        return right(model, destination)

    monkeypatch.setattr(ct.models.utils, "compile_model", noted)
    built = find_or_build(demo, OPTIONS, as_reference(demo))
    assert [path.parent for path in compiled if path.parent == built.folder] == [built.folder]
    assert [Path(model.path).parent for model in StrictModel.made] == [built.folder]
    assert built.record.gate_db and [p.name for p in built.folder.glob(".*")] == []


def test_a_failed_gate_brings_back_what_was_there(demo: Checkpoint, on_macos: list[str]) -> None:
    built = find_or_build(demo, OPTIONS, as_reference(demo))
    before = {path: path.stat().st_mtime_ns for path in built.folder.rglob("*.bin")}
    with pytest.raises(BackendError, match="dB from the reference"):
        find_or_build(demo, OPTIONS, lambda picture, _s, _n: 255 - picture, force=True)
    assert {path: path.stat().st_mtime_ns for path in built.folder.rglob("*.bin")} == before
    assert find_or_build(demo, OPTIONS, as_reference(demo)).news == ""


def test_what_a_kill_leaves_is_undone_by_the_next(demo: Checkpoint, on_macos: list[str]) -> None:
    built = find_or_build(demo, OPTIONS)
    (built.folder / cache.RECORD).unlink()
    assert find_or_build(demo, OPTIONS).news == "it was not finished"
    # killed during a forced build: the old one lies aside, the new one has no record
    aside = built.folder.with_name(f".old-{built.folder.name}")
    built.folder.rename(aside)
    built.folder.mkdir()
    assert find_or_build(demo, OPTIONS).news == "" and not aside.exists()


def test_a_mark_holds_for_one_build_of_macos_and_one_python(
    demo: Checkpoint, on_macos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: after an update of macOS, minutes of preparation came without a word."""
    monkeypatch.setattr(cache, "macos_build", lambda: "24F74")
    built = find_or_build(demo, OPTIONS)
    warm_up(demo, OPTIONS, built, quiet)
    loads = len(StrictModel.made)
    warm_up(demo, OPTIONS, built, quiet)
    assert len(StrictModel.made) == loads
    steps: list[str] = []
    monkeypatch.setattr(cache, "macos_build", lambda: "25A354")
    warm_up(demo, OPTIONS, built, lambda step, done: steps.append(step))
    assert len(StrictModel.made) == loads + 1 and "prepares frame" in steps[0]
    with monkeypatch.context() as patch:
        patch.setattr(cache.sys, "executable", "/another/python")
        assert not built.was_loaded("frame", "cpu_and_gpu", None)
        built.mark_loaded("frame", "cpu_and_gpu", None)
        assert built.was_loaded("frame", "cpu_and_gpu", None)
    assert built.was_loaded("frame", "cpu_and_gpu", None), "two environments share the folder"


def test_a_mark_ends_with_the_cache_that_it_speaks_of(
    demo: Checkpoint, on_macos: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Bug: a session of nine silent minutes after the user or macOS had cleared Core ML's cache."""
    monkeypatch.setattr(cache, "macos_build", lambda: "24F74")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    kept = tmp_path / "Library" / "Caches" / "org.python.python" / system_cache.NAME / "24F74"
    kept.mkdir(parents=True)
    built = find_or_build(demo, OPTIONS)
    warm_up(demo, OPTIONS, built, quiet)
    assert built.was_loaded("frame", "cpu_and_gpu", None)
    shutil.rmtree(kept)
    assert not built.was_loaded("frame", "cpu_and_gpu", None)
    # where macOS keeps it elsewhere, a mark is believed
    warm_up(demo, OPTIONS, built, quiet)
    assert built.was_loaded("frame", "cpu_and_gpu", None)


def test_a_folder_that_takes_no_mark_is_used_all_the_same(
    demo: Checkpoint, on_macos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = find_or_build(demo, OPTIONS)
    monkeypatch.setattr(cache, "written_whole", _refuses)
    warm_up(demo, OPTIONS, built, quiet)
    assert not built.was_loaded("frame", "cpu_and_gpu", None)


def _refuses(path: Path) -> None:
    raise OSError(30, "Read-only file system")


def test_each_size_of_a_package_is_prepared(demo: Checkpoint, on_macos: list[str]) -> None:
    sized = CoreMLOptions(SIZE, sizes=(64, 128))
    built = find_or_build(demo, sized)
    for size in (64, 128, 64):
        warm_up(demo, replace(sized, size=size), built, quiet)
    assert [model.function_name for model in StrictModel.made] == ["size_64", "size_128"]


# Two processes prepare one program


def test_one_of_two_threads_builds_and_the_other_waits(
    demo: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[str] = []
    steps: list[str] = []
    waiting = threading.Event()
    right = prepare._build

    def slow(*arguments: object) -> float:
        builds.append(threading.current_thread().name)
        if len(builds) == 1:
            second.start()
            assert waiting.wait(60), "the second does not wait for the first"
        return right(*arguments)  # type: ignore[arg-type]

    def noted(step: str, done: float) -> None:
        steps.append(step)
        if "another process" in step:
            waiting.set()

    monkeypatch.setattr(prepare, "_build", slow)
    reference = CoreMLOptions(SIZE, runtime="reference")
    found: list[cache.Built] = []
    second = threading.Thread(
        target=lambda: found.append(find_or_build(demo, reference, progress=noted))
    )
    first = find_or_build(demo, reference)
    second.join()
    assert len(builds) == 1 and waiting.is_set()
    assert [built.folder for built in found] == [first.folder] and found[0].news == ""


def prepare_program(demo: Checkpoint, pipe: Connection) -> None:
    steps: list[str] = []
    find_or_build(
        demo, CoreMLOptions(SIZE, runtime="reference"), progress=lambda step, _: steps.append(step)
    )
    pipe.send(steps)


@pytest.mark.thorough  # test_at_once has the lock itself
def test_the_second_of_two_processes_waits_and_says_so(demo: Checkpoint, weights: Path) -> None:
    """Bug: both wrote to one name, and one ended with 'Directory not empty'."""
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(2)]
    children = [
        context.Process(target=prepare_program, args=(demo, child_end)) for _, child_end in ends
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    waits = ["another process" in " ".join(near.recv()) for near, _ in ends]
    assert sorted(waits) in ([False, True], [False, False])  # the slower may find it finished
    (folder,) = (weights / "coreml").iterdir()
    assert cache.find_damage(folder) == ""


def test_a_lock_is_waited_for_and_leaves_no_file(tmp_path: Path) -> None:
    path, order = tmp_path / "it.lock", []
    begun = threading.Event()

    def second() -> None:
        with locked(path, lambda: (order.append("waits"), begun.set())[0]):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(path, lambda: None):
        thread.start()
        assert begun.wait(30)
        order.append("first")
    thread.join()
    assert order == ["waits", "first", "second"] and not path.exists()


def test_a_compilation_beside_another_takes_the_faster_ones(
    demo: Checkpoint, on_macos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ct.models.utils.compile_model

    def overtaken(model: str, destination: str) -> str:
        right(model, str(Path(model).with_suffix(".mlmodelc")))
        return right(model, destination)

    built = find_or_build(demo, OPTIONS)
    monkeypatch.setattr(ct.models.utils, "compile_model", overtaken)
    warm_up(demo, OPTIONS, built, quiet)
    assert [path.name for path in built.folder.glob("*.mlmodelc")] == ["frame.mlmodelc"]
    assert list(built.folder.glob(".*")) == []


# Warnings for the Neural Engine, and the programs of bench


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"weights": "int8", "compute_units": "cpu_and_ne"}, "int8 weights do not run"),
        pytest.param(
            {"weights": "int8", "compute_units": "all"},
            "int8 weights do not run",
            marks=pytest.mark.thorough,
        ),
        (
            {"weights": "int8", "placement": parse_placement("encode=ne,unet=gpu,decode=gpu")},
            "int8 weights do not run",
        ),
        ({"weights": "int8"}, ""),
        pytest.param(
            {"weights": "palettize8", "compute_units": "cpu_and_ne"}, "", marks=pytest.mark.thorough
        ),
    ],
)
def test_int8_on_the_neural_engine_is_said(
    demo: Checkpoint, on_macos: list[str], chosen: dict[str, str], says: str
) -> None:
    asked = CoreMLOptions(SIZE, **chosen)  # type: ignore[arg-type]

    def renders(picture: np.ndarray, *_: object) -> np.ndarray:
        raise BackendError("far enough")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(BackendError, match="far enough"):
            CoreMLPrograms().prepare(demo, asked, renders, quiet, False)
    said = [str(each.message) for each in caught if each.category is SdxsWarning]
    assert [says in text for text in said] == ([True] if says else [])


def test_a_peak_program_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, on_macos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: MLModel only warns of that, and bench failed later with its first prediction."""
    monkeypatch.setattr("sdxs.coreml_backend.instrument.sys.platform", "darwin")
    write_copy(tmp_path / "copy.mlpackage", (1, 2, 4, 4))
    monkeypatch.setattr(ct.models, "MLModel", WarningModel)
    assert isinstance(open_model(tmp_path / "copy.mlpackage"), StrictModel)
    StrictModel.refuses_to_load = True
    with pytest.raises(BackendError, match=r"copy\.mlpackage cannot be loaded"):
        open_model(tmp_path / "copy.mlpackage")


def test_the_fake_keeps_the_rules_of_the_bridge(
    tmp_path: Path, demo: Checkpoint, on_macos: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    built = find_or_build(demo, OPTIONS)
    package, compiled = built.package("frame"), built.compiled("frame")
    with pytest.raises(RuntimeError, match="manifest"):
        fake_coreml.compile_model(str(tmp_path / "no.mlpackage"), str(compiled))
    fake_coreml.compile_model(str(package), str(compiled))
    fake_coreml.compile_model(str(package), str(compiled))  # into the one that is there
    assert (compiled / "frame.mlmodelc" / fake_coreml.COMPILED).is_file()
    units = ct.ComputeUnit.CPU_AND_NE
    with pytest.raises(TypeError):
        StrictModel(compiled, units)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="Function other"):
        StrictModel(str(compiled), units, "other")
    StrictModel.neural_engine_refuses = True
    assert StrictModel(str(compiled), units).get_last_predict_duration_in_nano_seconds() is None
    assert "ANECCompile() FAILED" in capfd.readouterr().err
    (compiled / fake_coreml.COMPILED).unlink()
    with pytest.raises(RuntimeError, match="Error reading"):
        StrictModel(str(compiled), units)
