"""Damaged programs, processes that die or hang, two builders at once, and what Core AI refuses."""

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import fake_coreai_child
import numpy as np
import pytest

from coreai_here import build_here, shared_weights
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.program_cache import RECORD
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, WeightsError
from sdxs.coreai_backend import apart, prepare, program, runner
from sdxs.coreai_backend import programs as programs_module
from sdxs.coreai_backend.backend import CoreAIBackend
from sdxs.coreai_backend.cache import PROGRAMS, Built
from sdxs.coreai_backend.ops import CoreAIOps
from sdxs.coreai_backend.options import CoreAIOptions
from sdxs.coreai_backend.prepare import find_or_build, run_task
from sdxs.coreai_backend.programs import CoreAIPrograms
from sdxs.coreai_backend.runner import Runner

SIZE = 32
OPTIONS = CoreAIOptions(SIZE, dtype="float32")
LOCATION = f"{CoreAIBackend.__module__}:{CoreAIBackend.__name__}"


@pytest.fixture
def good(
    demo: Checkpoint, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Built:
    """A program that nobody damages."""
    with monkeypatch.context() as patch:
        patch.setenv("SDXS_WEIGHTS", str(shared_weights(tmp_path_factory)))
        build_here(patch)
        return find_or_build(demo, OPTIONS)


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def copies(good: Built, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let a build copy the good program; the names of the tasks."""
    asked: list[str] = []

    def call(options: object, task: str, *arguments: object, report: object) -> object:
        asked.append(task)
        if task != "build":
            return getattr(apart, task)(*arguments, report)
        partial = arguments[-1]
        assert isinstance(partial, Path)
        for each in good.folder.glob("frame.*"):
            shutil.copytree(each, partial / each.name)
        return 0.0

    monkeypatch.setattr(prepare, "run_task", call)
    return asked


def quiet(step: str, done: float) -> None:
    pass


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Change one bit, which Core AI does not notice."""
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD
    }


# Damage


@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [
        (truncate, "frame.aimodel/main.mlirb", "main.mlirb is damaged"),
        (flip, "frame.aimodel/main.mlirb", "main.mlirb is damaged"),
        (Path.unlink, "frame.aimodel/main.mlirb", "files are missing"),
        (Path.unlink, "frame.aimodel/main.hash", "files are missing"),
        (flip, "frame.aimodel/metadata.json", "metadata.json is damaged"),
        (truncate, "frame.aimodelx/main-universal.odix", "main-universal.odix is damaged"),
        (flip, "frame.aimodelx/main-universal.odix", "main-universal.odix is damaged"),
        (shutil.rmtree, "frame.aimodelx", "files are missing"),
        (Path.unlink, RECORD, "it was not finished"),
        (truncate, RECORD, "its record is damaged"),
    ],
)
def test_a_damaged_program_is_built_again_and_says_why(
    demo: Checkpoint,
    good: Built,
    copies: list[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object],
    name: str,
    reason: str,
) -> None:
    monkeypatch.setattr(runner, "Runner", None)  # nothing is opened to find that out
    built = find_or_build(demo, OPTIONS)
    assert (built.news, copies) == ("not built before", ["build"])
    damage(built.folder / name)
    assert reason in find_or_build(demo, OPTIONS).news
    assert copies == ["build", "build"] and files_of(built.folder) == files_of(good.folder)
    assert find_or_build(demo, OPTIONS).news == ""


def test_a_session_opens_what_was_built_again(demo: Checkpoint, copies: list[str]) -> None:
    """Opened as it is, this program would end the process."""
    truncate(find_or_build(demo, OPTIONS).compiled("frame") / "main-universal.odix")
    backend = CoreAIBackend(demo, OPTIONS)
    backend.load()
    try:
        backend.submit(picture())
        backend.collect(made := picture())
    finally:
        backend.close()
    assert copies == ["build", "build"] and not np.array_equal(made, picture())


def test_core_ai_ends_a_child_over_a_damaged_program_and_one_line_says_so(
    demo: Checkpoint, good: Built, tmp_path: Path
) -> None:
    damaged = Built(shutil.copytree(good.folder, tmp_path / "damaged"))
    truncate(damaged.compiled("frame") / "main-universal.odix")
    with pytest.raises(BackendError) as raised:
        run_task(OPTIONS, "render_probe", damaged, demo, OPTIONS, report=quiet)
    (line,) = str(raised.value).splitlines()
    assert "was killed by signal" in line and "convert --backend coreai --force" in line


# Processes


def test_a_build_that_hangs_is_ended(
    demo: Checkpoint, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "apart", fake_coreai_child)
    monkeypatch.setattr(prepare, "PREPARE_TIMEOUT_S", 1.0)
    monkeypatch.setenv("FAKE_COREAI", "hang")
    with pytest.raises(BackendError, match="coreai: .* did not answer in time"):
        find_or_build(demo, OPTIONS)
    assert not list((weights / "coreai").iterdir())


def test_a_build_whose_process_is_killed_leaves_nothing(
    demo: Checkpoint, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "apart", fake_coreai_child)
    monkeypatch.setenv("FAKE_COREAI", "SIGKILL")
    with pytest.raises(BackendError, match=r"coreai: .*SIGKILL.*memory ran out.*--size"):
        find_or_build(demo, OPTIONS)
    assert not list((weights / "coreai").iterdir())


def test_a_session_whose_process_is_killed_says_so_in_one_line(
    demo: Checkpoint, good: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(good.folder.parent.parent))
    hosted = HostedBackend("coreai", LOCATION, demo, OPTIONS)
    hosted.load()
    try:
        hosted.set_params(FrameParams(3))
        hosted.submit(picture())
        hosted.collect(made := picture())
        assert not np.array_equal(made, picture())
        assert hosted.describe().stand_in
        os.kill(hosted.pid, signal.SIGSEGV)
        with pytest.raises(BackendError) as raised:
            hosted.submit(picture())
            hosted.collect(made)
    finally:
        hosted.close()
    (line,) = str(raised.value).splitlines()
    assert "SIGSEGV" in line and "convert --backend coreai --force" in line


def test_one_of_two_builds_and_the_other_waits(
    demo: Checkpoint, copies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, found = threading.Event(), list[Built]()
    right = prepare.run_task

    def slow(*given: object, **named: object) -> object:
        second.start()
        assert waiting.wait(60), "the second does not wait for the first"
        return right(*given, **named)  # type: ignore[arg-type]

    def noted(step: str, done: float) -> None:
        if "another process" in step:
            waiting.set()

    monkeypatch.setattr(prepare, "run_task", slow)
    second = threading.Thread(
        target=lambda: found.append(find_or_build(demo, OPTIONS, progress=noted))
    )
    first = find_or_build(demo, OPTIONS)
    second.join()
    assert copies == ["build"]
    assert [each.folder for each in found] == [first.folder] and found[0].news == ""


# The gate


def test_a_program_that_fails_the_gate_is_not_kept(
    demo: Checkpoint, copies: list[str], weights: Path
) -> None:
    with pytest.raises(BackendError, match="at .* dB from the reference"):
        find_or_build(demo, OPTIONS, lambda picture, _states, _seed: 255 - picture)
    kept = {path.name for path in (weights / "coreai").iterdir()}
    assert kept == {"refused-demo-program.png", "refused-demo-reference.png"}


def test_the_gate_opens_a_program_before_its_record_is_written(
    demo: Checkpoint, copies: list[str]
) -> None:
    """Bug: it was refused as unfinished, so that no program ever passed."""
    seen: list[bool] = []

    def reference(given: np.ndarray, *_: object) -> np.ndarray:
        folder = next(PROGRAMS.folder.glob("demo-*"))
        seen.append((folder / RECORD).exists())
        return apart.render_probe(Built(folder), demo, OPTIONS, quiet)

    built = find_or_build(demo, OPTIONS, reference)
    assert seen == [False] and copies == ["build", "render_probe"]
    (record,) = (record for folder, record in PROGRAMS.listed() if folder == built.folder)
    assert record and record.gate_db == {"32 by cpu": 99.0}


def test_a_program_without_a_gate_is_checked_before_it_counts_as_prepared(
    demo: Checkpoint, copies: list[str]
) -> None:
    find_or_build(demo, OPTIONS)

    def reference(*_: object) -> np.ndarray:
        return apart.render_probe(find_or_build(demo, OPTIONS), demo, OPTIONS, quiet)

    (made,) = CoreAIPrograms().prepare(demo, OPTIONS, reference, quiet, False)
    assert copies == ["build", "render_probe"]
    assert made.quality_db == {"32 by cpu": 99.0} and made.judge == "Apple's CPU runtime"
    assert [each.folder for each in CoreAIPrograms().listed()] == [made.folder]


# What Core AI refuses


def test_what_the_compiler_refuses_is_one_error(
    demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: CoreAIOps, x: object) -> object:
        raise ValueError("Operation creation failed")

    monkeypatch.setattr(CoreAIOps, "silu", wrong)
    monkeypatch.setattr(CoreAIOps, "relu", wrong)
    with pytest.raises(BackendError, match="refuses the program of demo.*--attention"):
        program.build(demo, OPTIONS.variant(), tmp_path / "frame.aimodel")
    assert not (tmp_path / "frame.aimodel").exists()


def test_weights_outside_float16_are_refused_by_name(
    demo: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = program.Weights.float32
    monkeypatch.setattr(
        program.Weights, "float32", lambda self, name: right(self, name) * np.float32(1e6)
    )
    with pytest.raises(WeightsError, match="float16 cannot; Core AI computes in float16"):
        program.author(demo, CoreAIOptions(SIZE).variant())


def test_a_program_that_cannot_be_loaded_is_one_error(demo: Checkpoint, good: Built) -> None:
    other = CoreAIOptions(96, dtype="float32")  # no function of the program
    with pytest.raises(BackendError, match="cannot be loaded on cpu.*doctor"):
        Runner(good, demo, other, "cpu")


def test_a_frame_that_core_ai_refuses_is_one_error(demo: Checkpoint, good: Built) -> None:
    opened = Runner(good, demo, OPTIONS, "cpu")
    opened._given["picture"] = np.zeros((8, 8, 3), np.uint8)
    opened._stale.add("picture")
    opened.in_place = False
    with pytest.raises(BackendError, match="a frame failed.*picture"):
        opened.run(np.zeros((8, 8, 3), np.uint8))
    opened.close()
    with pytest.raises(BackendError, match="closed"):
        opened.run(picture())


# Compute units, which only macOS 27 has


class FakeModel:
    """`AIModel`, which notes what it was loaded from."""

    loaded: list[tuple[Path, object]] = []  # noqa: RUF012

    @classmethod
    async def load(cls, path: Path, specialization_options: object = None) -> "FakeModel":
        cls.loaded.append((path, specialization_options))
        return cls()

    def load_function(self, name: str) -> object:
        raise KeyError(name)


def test_the_framework_opens_the_program_itself_with_the_chosen_unit(
    demo: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "has_framework", lambda: True)
    monkeypatch.setattr(runner, "AIModel", FakeModel)
    monkeypatch.setattr(runner, "_wishes", lambda unit: f"prefers {unit}")
    FakeModel.loaded.clear()
    with pytest.raises(BackendError, match="cannot be loaded on ne"):
        Runner(Built(tmp_path), demo, OPTIONS, "ne")
    assert FakeModel.loaded == [(tmp_path / "frame.aimodel", "prefers ne")]


@pytest.mark.parametrize(("scale", "agrees"), [(1.08, True), (1.3, False), (np.nan, False)])
def test_a_unit_is_checked_against_the_cpu_once(
    demo: Checkpoint,
    copies: list[str],
    monkeypatch: pytest.MonkeyPatch,
    scale: float,
    agrees: bool,
) -> None:
    """In float16 a unit was silently wrong (coreai-torch#115)."""
    asked: list[str] = []

    def rendered(built: Built, _c: object, options: CoreAIOptions, unit: str) -> dict:
        asked.append(unit)
        return {"image": picture(), "x0": np.float32(scale if unit == "gpu" else 1) * np.ones(9)}

    monkeypatch.setattr(apart, "rendered_probe", rendered)
    monkeypatch.setattr("sdxs.coreai_backend.options.has_framework", lambda: True)
    monkeypatch.setattr(programs_module, "has_framework", lambda: True)
    monkeypatch.setattr(programs_module, "run_task", prepare.run_task)
    for module in (programs_module, apart):
        monkeypatch.setattr(module, "macos_build", lambda: "26A100")
    options = CoreAIOptions(SIZE, dtype="float32", attention="split_einsum", unit="gpu")

    def prepared() -> list:
        return CoreAIPrograms().prepare(demo, options, lambda *_: picture(), quiet, False)

    if agrees:
        assert prepared()[0].quality_db == {"32 by gpu": 99.0}
        prepared()
        assert asked == ["gpu", "gpu", "cpu"] and copies == ["build", "render_probe", "check_unit"]
        monkeypatch.setattr(programs_module, "macos_build", lambda: "26B200")
        prepared()
        assert copies[3:] == ["check_unit"], "an update of macOS may change a unit"
        monkeypatch.setattr(Built, "mark", lambda self, *_: self.folder / "no" / "folder")
        prepared()
        assert copies[4:] == ["check_unit"], "a folder that takes no mark is checked each time"
        return
    with pytest.raises(BackendError, match="on gpu the latents.*--dtype float32 or --backend mlx"):
        prepared()
    with pytest.raises(BackendError):
        prepared()  # it stays refused
