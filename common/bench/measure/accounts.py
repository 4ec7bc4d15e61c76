"""What the system says of a backend's processes: resident, dirty, compressed, wired, graphics.

Linux: /proc/PID/smaps_rollup, and nvidia-smi for a GPU with memory of its own. macOS: the process's
resource usage, `vmmap`, `footprint`, and the kernel's ledgers, which only the process itself sees.
"""

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from ...backend.memory import wired_and_resident
from ...system import asked
from ..model.unified import Account, in_all
from .crew import Failed
from .ledgers import ledgers
from .mac_tools import from_footprint, from_vmmap
from .requests import Bench, Loaded, Request
from .run_state import RunState
from .worker import Worker

MEBIBYTE = 2**20
_COMPUTE_APPS = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Ledgers(Request[dict[str, int]]):
    """Ask the kernel for the ledgers of the child's own process."""

    def do(self, bench: Bench) -> dict[str, int]:
        return ledgers()


def take_account(run: RunState, worker: Worker, loaded: Loaded) -> bool:
    """Note the account of a loaded backend after its memory pass; return success."""
    told = run.crew.ask(worker, Ledgers(), "the memory pass")
    if isinstance(told, Failed):
        return False
    pids = dict.fromkeys((worker.pid, *loaded.describe.process_ids))
    account = in_all([account_of(pid) for pid in pids])
    neural = [value for name, value in told.items() if name.startswith("neural")]
    if neural:
        told_by = f"{account.told_by}, task_info of one process"
        account = replace(account, told_by=told_by, neural_bytes=max(0, sum(neural)))
    run.of[worker.entrant.label].account = account
    return True


def account_of(pid: int) -> Account:
    """Return what the system says of one process; what it does not say is None."""
    return _on_a_mac(pid) if sys.platform == "darwin" else _on_linux(pid)


def _on_linux(pid: int) -> Account:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return Account("", 1)
    account = of_smaps(text)
    if shutil.which("nvidia-smi"):
        device = device_bytes(asked("nvidia-smi", *_COMPUTE_APPS), pid)
        if device is not None:
            told_by = f"{account.told_by}, nvidia-smi"
            account = replace(account, told_by=told_by, device_bytes=device)
    return account


def of_smaps(text: str) -> Account:
    """Read smaps_rollup. Swapped pages stand for compressed ones, locked pages for wired ones."""
    words = [line.split() for line in text.splitlines()[1:]]
    counts = {line[0].rstrip(":"): int(line[1]) * 1024 for line in words if len(line) == 3}
    return Account(
        "smaps_rollup",
        1,
        counts.get("Rss"),
        counts.get("Private_Dirty"),
        counts.get("Swap"),
        counts.get("Locked"),
    )


def device_bytes(text: str, pid: int) -> int | None:
    """Read nvidia-smi's list of processes; None for one that is not in it, as in a container."""
    used = [
        int(size) * MEBIBYTE
        for line in text.splitlines()
        for number, _, size in [line.replace(" ", "").partition(",")]
        if number == str(pid) and size.isdecimal()
    ]
    return sum(used) if used else None


def _on_a_mac(pid: int) -> Account:
    wired, resident = wired_and_resident(pid)
    found, told_by = from_vmmap(asked("vmmap", "-summary", str(pid))), "rusage, vmmap"
    if found is None:
        found, told_by = from_footprint(asked("footprint", str(pid))), "rusage, footprint"
    if found is None:
        return Account("rusage", 1, resident_bytes=resident, wired_bytes=wired)
    return Account(
        told_by,
        1,
        resident,
        found.dirty_bytes,
        found.compressed_bytes,
        wired,
        found.surface_bytes,
        found.metal_bytes,
    )
