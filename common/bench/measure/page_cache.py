"""The page cache: take files out of it, and look which part of them is in it.

Linux drops a file's clean pages on request, for anyone who may read the file. macOS has no such
call: `purge` empties everything, and needs root.
"""

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def drop(paths: Sequence[Path]) -> None:
    """Ask the system to forget the contents of files; it may refuse, see `resident`."""
    if not can_drop():
        return
    for path in paths:
        with suppress(OSError), path.open("rb") as file:
            with suppress(OSError):  # a read-only file system has nothing to write back
                os.fsync(file.fileno())  # only what is written is dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def can_drop() -> bool:
    """Tell whether this system has the request."""
    return hasattr(os, "posix_fadvise")


def resident(paths: Sequence[Path]) -> float | None:
    """Return the share of the files' pages that is in memory, 0 to 1; None if nobody can tell."""
    if not can_drop():
        return None
    found = pages = 0
    try:
        for path in paths:
            states = _pages(path)
            found += sum(state & 1 for state in states)
            pages += len(states)
    except OSError:
        return None
    return found / pages if pages else None


def _pages(path: Path) -> bytes:
    """Return a byte for each page of a file; its lowest bit says that the page is in memory."""
    size = path.stat().st_size
    if not size:
        return b""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    states = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    # a private mapping that may be written to, because only such a one gives its address away
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as view,
    ):
        first = ctypes.c_char.from_buffer(view)
        failed = libc.mincore(ctypes.addressof(first), size, states)
        del first  # the mapping cannot be closed before
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return states.raw
