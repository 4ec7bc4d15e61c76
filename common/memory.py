"""How much memory a process really costs: its footprint, as the system accounts for it.

Linux: proportional set size (shared pages divided among their users), from smaps_rollup.
macOS: phys_footprint, what Activity Monitor shows; it counts GPU buffers in unified memory too.
"""

import ctypes
import os
import sys
from pathlib import Path

from .errors import SdxsError

_RUSAGE_INFO_V2 = 2
_PHYS_FOOTPRINT_OFFSET = 16 + 7 * 8  # struct rusage_info_v2: a uuid, then seven 64-bit counters before it
_RUSAGE_BYTES = 1024


def footprint_bytes(pid: int | None = None) -> int:
    """Return the footprint of a process, this one by default. Raises SdxsError if it cannot be read."""
    pid = os.getpid() if pid is None else pid
    if sys.platform == "darwin":
        return _phys_footprint(pid)
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration) as error:
        raise SdxsError(f"memory of process {pid} cannot be read ({error}); has it ended?") from None


def _phys_footprint(pid: int) -> int:
    info = ctypes.create_string_buffer(_RUSAGE_BYTES)
    if ctypes.CDLL(None).proc_pid_rusage(pid, _RUSAGE_INFO_V2, info) != 0:
        raise SdxsError(f"memory of process {pid} cannot be read; has it ended?")
    return int.from_bytes(info.raw[_PHYS_FOOTPRINT_OFFSET : _PHYS_FOOTPRINT_OFFSET + 8], sys.byteorder)
