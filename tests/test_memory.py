"""The footprint figure is what a process really uses."""

import ctypes
import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sdxs.common.backend import memory
from sdxs.common.backend.memory import anonymous_bytes, footprint_bytes
from sdxs.common.errors import SdxsError

CHILD = (
    "import sys; block = bytearray(b'x') * int(sys.argv[1]); print('ready', flush=True); input()"
)


def use_of_child(
    block_bytes: int, measure: Callable[[int], int] = footprint_bytes
) -> tuple[int, int]:
    """Memory and pid of a Python that holds a block of memory; it has ended on return."""
    command = [sys.executable, "-c", CHILD, str(block_bytes)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        used = measure(child.pid)
        child.communicate("\n")
    return used, child.pid


# Other processes that map Python's libraries, or stop doing so, move the footprint.
@pytest.mark.parametrize(
    ("measure", "margin"), [(anonymous_bytes, 1_500_000), (footprint_bytes, 10_000_000)]
)
def test_memory_grows_by_what_is_allocated(measure: Callable[[int], int], margin: int) -> None:
    small, _ = use_of_child(1_000_000, measure)
    large, _ = use_of_child(81_000_000, measure)
    assert large - small == pytest.approx(80_000_000, abs=margin)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has one figure for both")
def test_mapping_a_file_is_no_growth(tmp_path: Path) -> None:
    """Bug: the soak counted pages of libraries, which move with whoever else maps them."""
    path = tmp_path / "block"
    path.write_bytes(b"x" * 40_000_000)
    before = anonymous_bytes(), footprint_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[::4096].count(b"x") > 9_000
        after = anonymous_bytes(), footprint_bytes()
    assert after[0] - before[0] < 5_000_000 and after[1] - before[1] > 30_000_000


def test_footprint_of_this_process_and_of_an_ended_one() -> None:
    assert footprint_bytes() > 10_000_000
    _, pid = use_of_child(1)
    with pytest.raises(SdxsError, match="has it ended"):
        footprint_bytes(pid)


def test_memory_that_was_swapped_out_is_still_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text(
        "55d0-7ffc ---p 00000000 00:00 0    [rollup]\n"
        "Rss:     900 kB\nPss:     700 kB\nPss_Anon:     450 kB\nAnonymous:     500 kB\n"
        "Swap:     30 kB\nSwapPss:     20 kB\nLocked:     0 kB\n"
    )
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory, "Path", lambda name: rollup)
    assert anonymous_bytes(1) == (500 + 30) * 1024
    assert footprint_bytes(1) == 700 * 1024


class Rusage(ctypes.Structure):
    """struct rusage_info_v2 of macOS's sys/resource.h, up to the figure that is read."""

    _fields_ = (
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", ctypes.c_uint64),
        ("ri_system_time", ctypes.c_uint64),
        ("ri_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_interrupt_wkups", ctypes.c_uint64),
        ("ri_pageins", ctypes.c_uint64),
        ("ri_wired_size", ctypes.c_uint64),
        ("ri_resident_size", ctypes.c_uint64),
        ("ri_phys_footprint", ctypes.c_uint64),
    )


class FakeLibrary:
    """macOS's C library as far as it is asked; `proc_pid_rusage` knows one process."""

    def proc_pid_rusage(self, pid: int, flavour: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
        if pid != 42:
            return -1
        assert flavour == 2  # RUSAGE_INFO_V2
        info = Rusage(ri_resident_size=111, ri_phys_footprint=5_000_000_000)
        ctypes.memmove(buffer, ctypes.byref(info), ctypes.sizeof(info))
        return 0


@pytest.mark.parametrize("measure", [anonymous_bytes, footprint_bytes])
def test_on_macos_both_figures_are_the_physical_footprint(
    measure: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeLibrary())
    assert measure(42) == 5_000_000_000
    with pytest.raises(SdxsError, match="memory of process 7 cannot be read; has it ended"):
        measure(7)
