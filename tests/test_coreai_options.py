"""Core AI's options, and systems where its package is missing or does not fit: needs no package."""

import os
import platform
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from command import Command
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import UsageError
from sdxs.common.picture.size import FrameSize
from sdxs.common.settings import parse_settings
from sdxs.coreai_backend import SPEC, doctor, options, prepare
from sdxs.coreai_backend.options import CoreAIOptions, Variant
from sdxs.coreai_backend.programs import CoreAIPrograms

SIZE = 64
ROOT = Path(__file__).parent.parent


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux on which the tested version is installed."""
    on_linux(monkeypatch)
    monkeypatch.setattr(prepare, "coreai_version", lambda: prepare.SUPPORTED)


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS 27."""
    monkeypatch.setattr(options, "has_framework", lambda: True)


def on_linux(
    monkeypatch: pytest.MonkeyPatch, libc: tuple[str, str] = ("glibc", "2.39"), cpu: str = "x86_64"
) -> None:
    monkeypatch.setattr(prepare.sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: cpu)
    monkeypatch.setattr(platform, "libc_ver", lambda *_: libc)


def on_macos(monkeypatch: pytest.MonkeyPatch, version: str, cpu: str = "arm64") -> None:
    monkeypatch.setattr(prepare.sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: cpu)
    for module in (prepare, options):
        monkeypatch.setattr(module, "macos_major", lambda: int(version.split(".")[0]))
    monkeypatch.setattr(prepare, "macos_version", lambda: version)


# Where it runs


@pytest.mark.parametrize(
    ("libc", "cpu", "says"),
    [
        (("glibc", "2.34"), "x86_64", ""),
        (("glibc", "2.39"), "x86_64", ""),
        (("glibc", "2.31"), "x86_64", "needs glibc 2.34, this is 2.31"),
        (("", ""), "x86_64", "glibc"),  # musl
        (("glibc", "2.39"), "aarch64", "x86-64"),
    ],
)
def test_linux_needs_a_glibc_and_a_processor_that_the_wheel_fits(
    monkeypatch: pytest.MonkeyPatch, libc: tuple[str, str], cpu: str, says: str
) -> None:
    on_linux(monkeypatch, libc, cpu)
    found = prepare.obstacle_here()
    assert says in found and bool(says) == bool(found)


@pytest.mark.parametrize(
    ("version", "cpu", "says"),
    [
        ("27.0", "arm64", ""),
        ("26.1", "arm64", ""),
        ("15.5", "arm64", "needs macOS 26, this is 15.5"),
        ("26.1", "x86_64", "Apple silicon"),
    ],
)
def test_a_mac_needs_macos_26(
    monkeypatch: pytest.MonkeyPatch, version: str, cpu: str, says: str
) -> None:
    on_macos(monkeypatch, version, cpu)
    found = prepare.obstacle_here()
    assert says in found and bool(says) == bool(found)
    assert options.has_framework() == (version == "27.0")


def test_a_missing_or_another_version_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, fits: None
) -> None:
    for found, says in (("", "is not installed"), ("1.0.0b2", "1.0.0b2 is installed, expected")):
        monkeypatch.setattr(prepare, "coreai_version", lambda found=found: found)
        with pytest.raises(UsageError, match=f"{says}.*pip install coreai-core==1.0.0b3$"):
            prepare.refuse_without_runtime()
    on_linux(monkeypatch, ("glibc", "2.31"))
    with pytest.raises(UsageError, match="glibc 2.34.*use --backend mlx"):
        prepare.refuse_without_runtime()


def test_the_extra_pins_the_version_that_is_accepted() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["coreai"] == [f"coreai-core=={prepare.SUPPORTED}"]
    assert not [each for each in project["dependencies"] if "coreai" in each]
    assert f"coreai-core=={prepare.SUPPORTED}\n" in (ROOT / "constraints.txt").read_text()


def test_doctor_says_what_it_is_here(monkeypatch: pytest.MonkeyPatch, fits: None) -> None:
    def said() -> tuple[bool | None, str, str]:
        (check,) = doctor.checks()
        return check.ok, check.finding, check.remedy

    monkeypatch.setattr(doctor, "has_framework", lambda: False)
    ok, finding, remedy = said()
    assert ok is None and "one CPU core" in finding and "no measure of speed" in finding and remedy
    monkeypatch.setattr(doctor, "has_framework", lambda: True)
    assert said()[0] is True
    monkeypatch.setattr(doctor, "coreai_version", lambda: "1.0.0b2")
    assert said()[0] is False and "expected 1.0.0b3" in said()[1]
    monkeypatch.setattr(doctor, "coreai_version", lambda: "")
    assert said()[0] is None and "coreai-core==1.0.0b3" in said()[2]
    monkeypatch.setattr(doctor, "obstacle_here", lambda: "needs glibc 2.34, this is 2.31")
    assert said() == (None, "needs glibc 2.34, this is 2.31", "use --backend mlx")


# No package at all

NOT_THERE = """
import importlib.metadata, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "coreai":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def version(name, right=importlib.metadata.version):
    if name == "coreai-core":
        raise importlib.metadata.PackageNotFoundError(name)
    return right(name)

sys.meta_path.insert(0, Missing())
importlib.metadata.version = version
from sdxs.cli import main
sys.argv = ["sdxs", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(bool(prepare.obstacle_here()), reason="another message comes first here")
@pytest.mark.parametrize(
    "line",
    [
        "convert --backend coreai --model demo --size 64",
        "live --backend coreai --model demo --source synthetic --headless --frames 1 --out x.mp4",
    ],
)
def test_without_the_package_a_command_says_how_to_install_it(line: str, tmp_path: Path) -> None:
    done = without_package(line, tmp_path)
    assert done.returncode == 2
    (last,) = done.stderr.strip().splitlines()[-1:]
    assert last.startswith("error: --backend coreai: coreai-core is not installed")
    assert last.endswith("pip install coreai-core==1.0.0b3")


def test_without_the_package_the_rest_of_sdxs_works(tmp_path: Path) -> None:
    done = without_package("convert --backend coreai --list", tmp_path)
    assert done.returncode == 0 and "Core AI programs" in done.stdout
    done = without_package("live --help", tmp_path)
    assert done.returncode == 0 and "--coreai-unit" in done.stdout


def without_package(line: str, weights: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NOT_THERE), *line.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=weights,
        env={**os.environ, "SDXS_WEIGHTS": str(weights), "COLUMNS": "300"},
    )


# Options


def test_a_compute_unit_needs_the_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "has_framework", lambda: False)
    assert CoreAIOptions(SIZE).used_unit == "cpu"
    assert CoreAIOptions(SIZE, unit="cpu").form == "split_einsum"
    for unit in ("gpu", "ne", "any"):
        with pytest.raises(UsageError, match=f"--coreai-unit {unit}: needs macOS 27"):
            CoreAIOptions(SIZE, unit=unit)


def test_the_gpu_is_the_default_of_the_framework(framework: None) -> None:
    """Core AI's own choice was seen to be silently wrong in float16."""
    assert CoreAIOptions(SIZE).used_unit == "gpu"
    forms = {unit: CoreAIOptions(SIZE, unit=unit).form for unit in ("gpu", "ne", "cpu", "any")}
    assert forms == {"gpu": "sdpa", "any": "sdpa", "ne": "split_einsum", "cpu": "split_einsum"}
    assert CoreAIOptions(SIZE, unit="ne", attention="matmul").form == "matmul"


def test_what_identifies_a_program_is_what_it_is_built_from() -> None:
    one = CoreAIOptions(SIZE, dtype="float32", attention="sdpa")
    same = CoreAIOptions(SIZE, dtype="float32", attention="sdpa", unit="cpu")
    assert one.identity() == same.identity() and one.variant() == same.variant()
    others = (
        CoreAIOptions(96, dtype="float32", attention="sdpa"),
        CoreAIOptions(SIZE, dtype="float32", attention="matmul"),
        CoreAIOptions(SIZE, attention="sdpa"),
        CoreAIOptions(SIZE, attention="sdpa", weights="int8"),
        CoreAIOptions(
            SIZE, dtype="float32", attention="sdpa", sizes=(FrameSize(64, 64), FrameSize(96, 64))
        ),
        one.controlled(),
    )
    assert len({str(each.identity()) for each in (one, *others)}) == 1 + len(others)
    assert len({each.variant() for each in (one, *others)}) == 1 + len(others)


def test_the_sizes_of_a_program_include_the_one_that_runs() -> None:
    sized = parse_settings(CoreAIOptions, {"sizes": "64,96x64"}, "coreai", size=SIZE)
    assert sized.variant().sizes == (FrameSize.of(64), FrameSize(96, 64))
    assert sized.function == "size_64"
    with pytest.raises(UsageError, match="--size 128: is not among --sizes"):
        CoreAIOptions(128, sizes=sized.sizes)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="float32 with --weights int8"):
        CoreAIOptions(SIZE, dtype="float32", weights="int8")
    with pytest.raises(UsageError, match="weights 'palettize6': expected one of float16, int8"):
        Variant((FrameSize.of(SIZE),), "sdpa", weights="palettize6")
    with pytest.raises(UsageError, match="attention 'flash'"):
        Variant((FrameSize.of(SIZE),), "flash")  # type: ignore[arg-type]


def test_what_cannot_be_is_refused_before_anything_is_built(
    demo: Checkpoint, fits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdxs.coreai_backend.programs.find_or_build", None)
    with pytest.raises(UsageError, match="100"):
        CoreAIPrograms().prepare(demo, CoreAIOptions(100), None, None, False)  # type: ignore[arg-type]


def test_its_process_has_a_remedy_for_every_signal_that_core_ai_raises() -> None:
    assert SPEC.hosted(CoreAIOptions(SIZE))
    remedies = CoreAIOptions(SIZE).remedies()
    assert {each.name for each in remedies} == {  # type: ignore[attr-defined]
        "SIGABRT",
        "SIGSEGV",
        "SIGBUS",
        "SIGILL",
        "SIGTRAP",
    }
    assert all("convert --backend coreai --force" in text for text in remedies.values())


# The commands


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "has_framework", lambda: False)


def test_bench_refuses_to_rank_the_package(command: Command, linux: None) -> None:
    done = command("bench", "--model", "demo", "--backend", "mlx", "--backend", "coreai")
    assert done.code == 2
    assert "no speed of Core AI" in done.err and "macOS 27" in done.err
    assert not SPEC.runs_here() or sys.platform == "darwin", "bench would take it by default"


def test_an_option_of_core_ai_is_refused_by_others(command: Command) -> None:
    done = command("convert", "--backend", "coreml", "--coreai-unit", "gpu", "--model", "demo")
    assert done.code == 2 and "--coreai-unit" in done.err


def test_the_packages_that_pictures_depend_on_are_noted() -> None:
    from sdxs.common.backend.spec import versions_of

    found = versions_of([SPEC])
    try:
        assert found["coreai-core"] == metadata.version("coreai-core")
    except metadata.PackageNotFoundError:
        assert "coreai-core" not in found
