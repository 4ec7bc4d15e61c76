"""What sdxs asks of macOS itself, on fakes of its commands and libraries."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdxs.common import system
from sdxs.coreml_backend import doctor, prepare, system_cache

ROOT = Path(__file__).parent.parent


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a shell script in front of a program of the system, under sys.platform darwin."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(system, "sys", type("System", (), {"platform": "darwin"}))
    system._sw_vers.cache_clear()

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    yield put
    system._sw_vers.cache_clear()


def test_the_version_of_macos_is_the_systems_and_not_pythons(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a Python built with an older SDK calls macOS 26 macOS 16."""
    programs("sw_vers", '[ "$1" = -productVersion ] && echo 26.1 || echo 25B78')
    monkeypatch.setattr("platform.mac_ver", lambda: ("16.0", ("", "", ""), "arm64"))
    assert system.macos_version() == "26.1" and system.macos_build() == "25B78"
    monkeypatch.setattr(doctor, "sys", type("System", (), {"platform": "darwin"}))
    monkeypatch.setattr(doctor, "_has_runtime", lambda: True)
    assert "macOS 26.1" in doctor.checks()[0].finding
    assert prepare.macos_version() == "26.1"


def test_elsewhere_and_without_the_command_there_is_no_version(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert system.macos_version() == ""
    system._sw_vers.cache_clear()
    monkeypatch.setattr(system, "sys", type("System", (), {"platform": "linux"}))
    assert system.macos_build() == ""


def test_the_machine_is_kept_awake_for_the_time_of_a_session(
    programs: Callable[[str, str], None], tmp_path: Path
) -> None:
    programs("caffeinate", f'echo $$ "$@" > {tmp_path}/said; exec sleep 60')
    with system.awake():
        while not (tmp_path / "said").exists() or not (tmp_path / "said").read_text():
            pass
        pid, *arguments = (tmp_path / "said").read_text().split()
        assert arguments == ["-d", "-i", "-w", str(os.getpid())]
        os.kill(int(pid), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_without_caffeinate_a_session_runs_all_the_same(
    programs: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ran = False
    with system.awake():
        ran = True
    assert ran


def test_doctor_tells_the_size_of_core_mls_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert doctor.caches() == []
    folder = tmp_path / "Library" / "Caches" / "org.python.python" / system_cache.NAME / "24F74"
    folder.mkdir(parents=True)
    with (folder / "program").open("wb") as file:
        file.truncate(3_000_000_000)
    (check,) = doctor.caches()
    assert (
        check.ok is True
        and check.finding.startswith("3.0 GB")
        and str(folder.parent) in check.finding
    )
    with (folder / "more").open("wb") as file:
        file.truncate(30_000_000_000)
    (check,) = doctor.caches()
    assert check.ok is None and "delete such a folder" in check.remedy


# The Makefile's choice of a Python


@pytest.mark.parametrize(
    ("machine", "version", "fits"),
    [("arm64", "15.5", True), ("x86_64", "15.5", False), ("arm64", "13.6", False)],
)
def test_make_takes_no_python_that_pip_would_fail_on(
    tmp_path: Path, machine: str, version: str, fits: bool
) -> None:
    """Bug: an Intel Mac, Rosetta and macOS 13 met pip's resolver error."""
    script = f"""#!{sys.executable}
import platform, sys
sys.platform = "darwin"
platform.machine = lambda: "{machine}"
platform.mac_ver = lambda: ("{version}", ("", "", ""), "{machine}")
if sys.argv[1] == "-c":
    exec(sys.argv[2])
else:
    sys.exit("made a virtual environment")
"""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        (folder / name).write_text(script)
        (folder / name).chmod(stat.S_IRWXU)
    (folder / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (folder / "uname").chmod(stat.S_IRWXU)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}

    def make(*arguments: str) -> str:
        done = subprocess.run(
            ["make", ".venv/run.stamp", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode
        return done.stdout + done.stderr

    if fits:
        assert "made a virtual environment" in make()
        return
    said = make()
    assert "no Python 3.11 to 3.13" in said and "Apple silicon, macOS 14 or later" in said
    assert "brew install python@3.13" in said and "pip" not in said
    assert "is not what sdxs runs on" in make(f"PYTHON={folder}/python3")
