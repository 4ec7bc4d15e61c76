"""The footprint figure is what a process really uses."""

import subprocess
import sys

import pytest

from sdxs.common.errors import SdxsError
from sdxs.common.memory import footprint_bytes

CHILD = "import sys; block = bytearray(b'x') * int(sys.argv[1]); print('ready', flush=True); input()"


def footprint_of_child(block_bytes: int) -> tuple[int, int]:
    """Footprint and pid of a Python that holds a block of memory; it has ended on return."""
    command = [sys.executable, "-c", CHILD, str(block_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        used = footprint_bytes(child.pid)
        child.communicate("\n")
    return used, child.pid


def test_footprint_grows_by_what_is_allocated() -> None:
    small, _ = footprint_of_child(1_000_000)
    large, _ = footprint_of_child(81_000_000)
    assert 79_000_000 < large - small < 82_000_000


def test_footprint_of_this_process_and_of_an_ended_one() -> None:
    assert footprint_bytes() > 10_000_000
    _, pid = footprint_of_child(1)
    with pytest.raises(SdxsError, match="has it ended"):
        footprint_bytes(pid)
