"""Measure the footprint of a process: the memory that the system charges to it.

Linux: proportional set size (shared pages divided among their users), from smaps_rollup. macOS:
phys_footprint, as in Activity Monitor; it includes GPU buffers in unified memory, but no memory of
the Neural Engine, which belongs to another process (ml-stable-diffusion#298). Anonymous memory
shows whether a process grows: the share of a library depends on the other processes that map it.
"""

import ctypes
import os
import sys
from pathlib import Path

from ..errors import SdxsError

_RUSAGE_INFO_V2 = 2
# struct rusage_info_v2: a uuid and seven 64-bit counters precede it
_PHYS_FOOTPRINT_OFFSET = 16 + 7 * 8
_WIRED_OFFSET, _RESIDENT_OFFSET = 16 + 5 * 8, 16 + 6 * 8
_RUSAGE_BYTES = 1024


def footprint_bytes(pid: int | None = None) -> int:
    """Return the footprint of a process, this one by default. Raises SdxsError."""
    pid = os.getpid() if pid is None else pid
    return _phys_footprint(pid) if sys.platform == "darwin" else _from_smaps(pid, "Pss")


def anonymous_bytes(pid: int | None = None) -> int:
    """Return the anonymous memory of a process, swapped memory included; on macOS its footprint.

    Other processes do not affect it. Raises SdxsError.
    """
    pid = os.getpid() if pid is None else pid
    return (
        _phys_footprint(pid) if sys.platform == "darwin" else _from_smaps(pid, "Anonymous", "Swap")
    )


def _from_smaps(pid: int, *keys: str) -> int:
    try:
        lines = (
            line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        )
        counts = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
        return sum(counts[key] for key in keys)
    except (OSError, LookupError, ValueError) as error:
        raise SdxsError(
            f"memory of process {pid} cannot be read ({error}); has it ended?"
        ) from None


def wired_and_resident(pid: int) -> tuple[int, int]:
    """Return the wired and the resident bytes of a process on macOS. Raises SdxsError."""
    wired, resident = _from_rusage(pid, _WIRED_OFFSET, _RESIDENT_OFFSET)
    return wired, resident


def _phys_footprint(pid: int) -> int:
    return _from_rusage(pid, _PHYS_FOOTPRINT_OFFSET)[0]


def _from_rusage(pid: int, *offsets: int) -> list[int]:
    info = ctypes.create_string_buffer(_RUSAGE_BYTES)
    if ctypes.CDLL(None).proc_pid_rusage(pid, _RUSAGE_INFO_V2, info) != 0:
        raise SdxsError(f"memory of process {pid} cannot be read; has it ended?")
    return [int.from_bytes(info.raw[at : at + 8], sys.byteorder) for at in offsets]
