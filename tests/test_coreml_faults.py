"""Faults of a conversion or a built program: one clear line each, nothing half-built."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest

from command import Command
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, SdxsWarning
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from sdxs.coreml_backend import cache, doctor, prepare
from sdxs.coreml_backend.options import CoreMLOptions
from sdxs.coreml_backend.prepare import find_or_build

SIZE = 64
REFERENCE = CoreMLOptions(SIZE, runtime="reference")

# what is around the programs is tested here: each is built once a run
pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder and, beside it, a temporary folder of the test's own."""
    for name, variable in (("weights", "SDXS_WEIGHTS"), ("temporary", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path / "weights"


def left_in(weights: Path) -> list[str]:
    """What a conversion left; folders in the temporary place count too."""
    names = [path.name for path in (weights / "coreml").glob("*")]
    return names + [
        str(path) for path in (weights.parent / "temporary").rglob("*") if path.is_file()
    ]


def start_convert(*arguments: str, largest_file: int | None = None) -> subprocess.Popen[str]:
    """Run `sdxs convert` in a child process whose files may have at most `largest_file` bytes."""
    lines = [
        "import resource, signal, sys",
        # a shell lets what it runs in the background ignore it
        "signal.signal(signal.SIGINT, signal.default_int_handler)",
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, {largest_file}))"
        if largest_file
        else "",
        "from sdxs.cli import main",
        "main()",
    ]
    command = [sys.executable, "-c", "\n".join(lines), "convert", "--size", str(SIZE), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "moment",
    [
        "build frame",
        pytest.param("write frame", marks=pytest.mark.thorough),
        f"check at {SIZE} x {SIZE}",
    ],
)
def test_an_interrupted_conversion_leaves_nothing(weights: Path, moment: str) -> None:
    """Ctrl-C in a real process, as soon as it says that it has come so far."""
    process = start_convert("--model", "demo")
    assert process.stderr
    said = []
    for line in process.stderr:
        said.append(line.strip())
        if moment in line:
            process.send_signal(signal.SIGINT)
            break
    said += process.stderr.read().splitlines()
    process.communicate()
    assert process.returncode == 130, said
    assert said[-1] == "interrupted; nothing half-built is left" and moment in said[-2]
    assert not any("Traceback" in line for line in said)
    assert left_in(weights) == []


def test_what_a_killed_conversion_left_is_cleared_away_by_the_next(
    weights: Path, demo: Checkpoint
) -> None:
    process = start_convert("--model", "demo")
    assert process.stderr
    next(line for line in process.stderr if "write frame" in line)
    process.kill()
    process.communicate()
    left = list((weights / "coreml").glob(".partial-*"))
    assert len(left) == 1, "killed in the middle, it cannot tidy up"
    assert cache.list_built() == []
    built = find_or_build(demo, REFERENCE)
    assert built.news == "not built before" and not left[0].exists()


@pytest.mark.parametrize("room", [100_000, 5_000_000], ids=["program", "weights"])
def test_a_disk_that_takes_no_more_is_one_clear_line(weights: Path, room: int) -> None:
    """A limit on the size of a file is refused by the kernel just where a full disk is."""
    process = start_convert("--model", "demo", largest_file=room)
    _, err = process.communicate()
    *_, last = err.strip().splitlines()
    assert process.returncode == 1 and "Traceback" not in err
    assert (
        last.startswith("error: ") and "disk" in last and "free" in last and "$SDXS_WEIGHTS" in last
    )
    assert left_in(weights) == []


def test_several_sizes_on_a_disk_that_takes_no_more(weights: Path) -> None:
    process = start_convert("--model", "demo", "--sizes", "64,128", largest_file=5_000_000)
    _, err = process.communicate()
    assert (
        process.returncode == 1
        and "disk" in err.strip().splitlines()[-1]
        and "Traceback" not in err
    )
    assert left_in(weights) == []


@pytest.mark.parametrize("found", ["8.3", "10.0b1", None])
def test_another_coremltools_is_named(
    weights: Path, command: Command, monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    right = metadata.version

    def version(name: str) -> str:
        if name != "coremltools":
            return right(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)
    for arguments in (
        ("convert", "--model", "demo"),
        (
            "live",
            "--backend",
            "coreml",
            "--coreml-runtime",
            "reference",
            "--model",
            "demo",
            "--headless",
            "--out",
            weights / "out.mp4",
        ),
    ):
        done = command(*arguments)
        assert done.code == 2 and len(done.err.strip().splitlines()) == 1
        assert (
            f"coremltools {found} is installed, expected 9.x"
            if found
            else "coremltools is not installed"
        ) in done.err
        assert "pip install 'coremltools>=9,<10'" in done.err
    assert left_in(weights) == []
    (check,) = doctor.checks()
    assert (
        check.ok is False
        and "coremltools" in check.finding
        and "coremltools>=9,<10" in check.remedy
    )


@pytest.mark.not_in_macos_shape(reason="on macOS Core ML compiles what convert has built")
@pytest.mark.parametrize("where", ["weight.bin", "record.json"])
def test_one_damaged_byte_is_noticed_said_and_repaired(
    weights: Path, command: Command, where: str
) -> None:
    assert command("convert", "--model", "demo", "--size", SIZE).code == 0
    (folder,) = (weights / "coreml").glob("demo-*")
    file = next(folder.rglob(where))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x80  # no longer ASCII, so that a JSON file is none any more
    file.write_bytes(data)
    done = command("convert", "--model", "demo", "--size", SIZE)
    says = "its record is damaged" if where == "record.json" else f"{where} is damaged"
    assert done.code == 0 and says in done.err
    assert says not in command("convert", "--model", "demo", "--size", SIZE).err


def test_a_stale_program_is_not_found_under_new_weights(weights: Path, tmp_path: Path) -> None:
    """The same name and configs, other tensors: another program."""
    from sdxs.common.checkpoint.find import open_checkpoint

    folders = []
    for seed in (0, 1):
        checkpoint = open_checkpoint(
            write_checkpoint(tmp_path / "same", tiny(architecture("sdxs-512-0.9")), seed=seed)
        )
        folders.append(find_or_build(checkpoint, REFERENCE).folder)
    assert folders[0] != folders[1]


def test_a_program_that_was_built_without_a_reference_is_checked_as_soon_as_there_is_one(
    weights: Path, demo: Checkpoint
) -> None:
    """Bug: a backend that built for itself left a program that nobody ever held against MLX."""
    built = find_or_build(demo, REFERENCE)
    assert built.record.gate_db == {}
    with pytest.raises(BackendError, match="dB from the reference"):
        find_or_build(demo, REFERENCE, lambda picture, _states, _seed: 255 - picture)
    assert built.record.gate_db == {}


def test_a_ctrl_c_that_a_library_swallows_still_ends_it(
    weights: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: coremltools' bare `except:` took it for an error of its own, and the build went on."""
    right = prepare._build

    def swallows(*arguments: object) -> float:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        return right(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare, "_build", swallows)
    done = command("convert", "--model", "demo", "--size", SIZE)
    assert done.code == 130 and "interrupted; nothing half-built is left" in done.err
    assert left_in(weights) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def build_something(partial: cache.Built) -> cache.Findings:
    partial.package("frame").mkdir(parents=True)
    (partial.package("frame") / "model").write_bytes(b"program")
    return cache.Findings(0.0, 0.0)


def test_where_the_weights_are_read_only_programs_go_to_the_users_cache(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (weights / "coreml").write_text("a file where the folder should be")
    with pytest.warns(SdxsWarning, match="coreml cannot be written to.*SDXS_WEIGHTS"):
        built = cache.find_or_build("demo", {"weights": ""}, "key", build_something)
    assert built.folder == tmp_path / "cache" / "sdxs" / "coreml" / "demo-key" and built.news
    again = cache.find_or_build("demo", {"weights": ""}, "key", build_something)
    assert again.folder == built.folder and not again.news
    assert [folder for folder, _ in cache.list_built()] == [built.folder]


def test_where_nothing_but_the_temporary_folder_can_be_written_it_serves(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(weights / "coreml"))
    (weights / "coreml").write_text("a file where the folder should be")
    own = tmp_path / "temporary" / f"sdxs-{os.getuid()}"
    with pytest.warns(SdxsWarning, match="coreml cannot be written to"):
        built = cache.find_or_build("demo", {"weights": ""}, "key", build_something)
    assert built.folder == own / "coreml" / "demo-key"
    own.chmod(0o777)  # others could put programs there
    with pytest.raises(BackendError, match="cannot be kept"):
        cache.find_or_build("demo", {"weights": ""}, "key", build_something)


def test_programs_of_another_user_that_cannot_be_read_are_built_elsewhere(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    theirs = cache.find_or_build("demo", {"weights": ""}, "key", build_something).folder

    def denied(folder: Path) -> str:
        if folder == theirs:
            raise PermissionError(13, "Permission denied")
        return ""

    monkeypatch.setattr(cache.PROGRAMS, "find_damage", denied)
    with pytest.warns(SdxsWarning, match="coreml cannot be written to"):
        built = cache.find_or_build("demo", {"weights": ""}, "key", build_something)
    assert built.folder.is_relative_to(tmp_path / "cache") and theirs.is_dir()


@pytest.mark.parametrize("missing", [(), ("pyobjc-framework-CoreML",)])
def test_doctor_says_whether_pyobjc_is_available(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    right = metadata.version
    monkeypatch.setattr(doctor.sys, "platform", "darwin")
    monkeypatch.setattr(doctor, "macos_major", lambda: 15)
    monkeypatch.setattr(doctor, "macos_version", lambda: "15.5")
    monkeypatch.setattr(doctor, "_has_runtime", lambda: True)
    monkeypatch.setattr(doctor.objc_values, "missing", lambda images: list(missing))
    monkeypatch.setattr(
        metadata, "version", lambda name: "12.2" if "pyobjc" in name else right(name)
    )
    check = next(each for each in doctor.checks() if each.name == "coreml pyobjc")
    if missing:
        assert check.ok is None and "not available" in check.finding
        assert check.remedy == "pip install 'pyobjc-framework-CoreML>=12'"
    else:
        assert check.ok and check.finding == "12.2: --coreml-runtime pyobjc is available"
