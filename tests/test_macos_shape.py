"""The shape of macOS bites: without it `make test-macos-shape` would test Linux once more."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sdxs.common.backend import memory
from sdxs.common.live import stats

SHAPE = Path(__file__).parent / "macos_shape"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="a Mac needs no shape of itself")
in_shape = pytest.mark.skipif(
    "SDXS_MACOS_SHAPE" not in os.environ, reason="the tests below run this one in the shape"
)
PROBE = """
import json, os, signal, socket, subprocess, sys, tempfile
from pathlib import Path
import _posixshmem
from sdxs.common import doctor
from sdxs.common.backend import memory
from sdxs.mlx_sdxs.backend import on_gpu

def opens(characters):
    name = "/" + "sdxs-shape".ljust(characters - 1, "x")
    try:
        os.close(_posixshmem.shm_open(name, os.O_CREAT | os.O_RDWR, mode=0o600))
    except OSError as error:
        return error.strerror
    _posixshmem.shm_unlink(name)
    return True

def room():
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        return one.send(bytes(1 << 20))

def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

ASK = "from sdxs.common.backend import memory; print(memory.sys.platform)"
print(json.dumps({
    "platform": memory.sys.platform,
    "of libraries": subprocess.sys.platform,
    "machine": doctor.platform.machine(),
    "in a child": said(sys.executable, "-c", ASK),
    "lacking": [hasattr(os, "sched_getaffinity"), hasattr(signal, "SIGPOLL")],
    "names": [opens(31), opens(32)],
    "room": room(),
    "here": os.listdir() == os.listdir(path=".") and open(file=os.devnull).close() is None,
    "hidden": [Path(x).exists() for x in ("/proc", "/proc/self/stat", "/dev/shm", "/dev/null")],
    "footprint": memory.footprint_bytes(),
    "version": said("sw_vers", "-productVersion"),
    "power": said("pmset", "-g", "batt").splitlines()[0],
    "chip": said("sysctl", "-n", "machdep.cpu.brand_string"),
    "awake": said("caffeinate", "-i", "echo", "done"),
    "temporary": [tempfile.gettempdir(), os.path.realpath(tempfile.gettempdir())],
    "gpu": on_gpu(),
}))
"""


def shaped(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SHAPE, *arguments], capture_output=True, text=True, check=False
    )


@needs_linux
@pytest.mark.parametrize("gpu", [False, True])
def test_a_shaped_process_and_its_children_see_a_mac(gpu: bool) -> None:
    done = shaped(*["--gpu"][:gpu], "-c", PROBE)
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert found["platform"] == found["in a child"] == "darwin"
    assert found["of libraries"] == "linux" and found["machine"] == "arm64"
    assert found["lacking"] == [False, False]
    assert found["names"] == [True, "File name too long"]
    assert 4_000 < found["room"] < 12_000
    assert found["here"]
    assert found["hidden"] == [False, False, False, True]
    assert 10_000_000 < found["footprint"] < 10_000_000_000
    assert found["version"] == "15.5" and found["chip"] == "Apple M1"
    assert found["power"] == "Now drawing from 'AC Power'" and found["awake"] == "done"
    link, target = map(Path, found["temporary"])
    assert link.name == "var" and target == link.with_name("private") and not target.exists()
    assert found["gpu"] is gpu


@in_shape
def test_a_test_sees_a_mac_in_the_shape() -> None:
    assert sys.platform == "darwin" and Path(tempfile.gettempdir()).is_symlink()
    # bytes on macOS, KB on Linux: read as the wrong one, the peak is off by a factor of 1024
    assert 0.5 < stats.process_peak_bytes() / memory.footprint_bytes() < 50


@in_shape
@pytest.mark.not_in_macos_shape(reason="it shows that the mark leaves a test out")
def test_what_needs_a_real_mac_is_left_out() -> None:
    pytest.fail("it ran")


@needs_linux
def test_pytest_runs_in_the_shape() -> None:
    done = shaped("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert "it shows that the mark leaves a test out" in done.stdout
    assert lines[-1].startswith("2 passed, 5 skipped")


def test_the_makefile_names_files_that_are_there() -> None:
    """`--ignore` says nothing about a file that does not exist."""
    makefile = (SHAPE.parent.parent / "Makefile").read_text().replace("\\\n", "")
    for variable in ("COMPUTING", "ON_A_GPU"):
        (names,) = re.findall(rf"^{variable} := (.*)$", makefile, re.MULTILINE)
        assert names.split() == sorted(set(names.split()))
        assert not [
            name for name in names.split() if not Path(SHAPE.parent, f"test_{name}.py").is_file()
        ]


@needs_linux
def test_the_exit_code_is_that_of_the_process() -> None:
    assert shaped("-c", "raise SystemExit(7)").returncode == 7
