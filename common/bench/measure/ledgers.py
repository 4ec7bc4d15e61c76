"""The kernel's ledgers of this process on macOS: `task_info` with TASK_VM_INFO.

Offsets are those of `struct task_vm_info` in <mach/task_info.h>, revision 3 and later. It has not
run on a Mac yet. A process may ask this of itself alone.
"""

import ctypes
import sys

TASK_VM_INFO = 22
INFO_BYTES = 512
WORD = 4  # natural_t, in which the kernel counts what it fills in
OFFSETS = {
    "resident": 16,
    "compressed": 120,
    "graphics": 272,
    "graphics compressed": 280,
    "graphics elsewhere": 288,
    "neural": 304,
    "neural compressed": 312,
    "neural elsewhere": 320,
    "neural elsewhere compressed": 328,
}


def ledgers() -> dict[str, int]:
    """Return the ledgers of this process in bytes by name; empty on other systems.

    'elsewhere': charged to no footprint of this process.
    """
    if sys.platform != "darwin":
        return {}
    try:
        library = ctypes.CDLL(None)
        task = ctypes.c_uint32.in_dll(library, "mach_task_self_")
        info = ctypes.create_string_buffer(INFO_BYTES)
        count = ctypes.c_uint32(INFO_BYTES // WORD)
        done = library.task_info(task, TASK_VM_INFO, info, ctypes.byref(count))
    except (AttributeError, ValueError):  # a system without Mach
        return {}
    return {} if done else read(info.raw, int(count.value))


def read(info: bytes, count: int) -> dict[str, int]:
    """Read the ledgers out of a filled struct. count: of words that the kernel filled in."""
    return {
        name: int.from_bytes(info[at : at + 8], sys.byteorder, signed=True)
        for name, at in OFFSETS.items()
        if at + 8 <= count * WORD
    }
