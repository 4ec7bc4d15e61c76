"""Answer as macOS' kernel does: limits, files that are not there, memory figures.

Every process of the shape has these, the libraries that sdxs uses included.
"""

import _posixshmem
import builtins
import ctypes
import errno
import io
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST_NAME = 31  # PSHMNAMLEN of XNU's bsd/kern/posix_shm.c
HALF_PAIR_BYTES = 4096  # Linux doubles it: 8 KB, net.local.stream.sendspace of macOS
HIDDEN = ("/proc", "/sys", "/dev/shm", "/etc/os-release")
BY_PATH = ("access", "listdir", "lstat", "open", "readlink", "scandir", "stat", "statvfs")
RUSAGE_INFO_V2, FOOTPRINT_OFFSET = 2, 72  # ri_phys_footprint in macOS' sys/resource.h

_read, _shm_open, _socketpair = io.open, _posixshmem.shm_open, socket.socketpair
_getrusage, _wait4, _member = resource.getrusage, os.wait4, ctypes.CDLL.__getattr__
_shown: list[bool] = []


def limit() -> None:
    """Put macOS' answers in place of Linux's."""
    io.open = builtins.open = _hiding(io.open)
    for name in BY_PATH:
        real = getattr(os, name)
        shown = _hiding(real)
        setattr(os, name, shown)
        # what the library asks whether a function takes descriptors or follows links
        for able in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if real in able:
                able.add(shown)
        if real in os.supports_effective_ids:
            os.supports_effective_ids.add(shown)
    _posixshmem.shm_open = shm_open
    socket.socketpair = socketpair
    resource.getrusage = getrusage
    os.wait4 = wait4
    ctypes.CDLL.__getattr__ = _member_or_rusage  # type: ignore[method-assign]


@contextmanager
def shown() -> Iterator[None]:
    """Let this process see Linux's files for a while."""
    _shown.append(True)
    try:
        yield
    finally:
        _shown.pop()


def is_hidden(path: object) -> bool:
    """Whether a path names what only Linux has. Descriptors and relative paths do not."""
    if _shown or not isinstance(path, str | bytes | os.PathLike):
        return False
    text = os.fsdecode(path)
    return any(text == top or text.startswith(f"{top}/") for top in HIDDEN)


def _hiding(function: Callable[..., object]) -> Callable[..., object]:
    def shown(*arguments: object, **options: object) -> object:
        path = arguments[0] if arguments else options.get("path", options.get("file"))
        if not is_hidden(path):
            return function(*arguments, **options)
        if function.__name__ == "access":
            return False
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))

    shown.__name__ = function.__name__
    return shown


def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
    """Open shared memory, whose name has at most 31 bytes with its slash."""
    if len(os.fsencode(path)) > LONGEST_NAME:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    return _shm_open(path, flags, mode)


def socketpair(*arguments: int, **options: int) -> tuple[socket.socket, socket.socket]:
    """Return a pair that holds 8 KB each way."""
    pair = _socketpair(*arguments, **options)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HALF_PAIR_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HALF_PAIR_BYTES)
    return pair


def getrusage(who: int) -> resource.struct_rusage:
    """Return the usage with ru_maxrss in bytes; Linux counts in KB."""
    return _in_bytes(_getrusage(who))


def wait4(pid: int, options: int) -> tuple[int, int, resource.struct_rusage]:
    """Wait for a child; its ru_maxrss is in bytes."""
    ended, status, usage = _wait4(pid, options)
    return ended, status, _in_bytes(usage)


def _in_bytes(usage: resource.struct_rusage) -> resource.struct_rusage:
    user_s, system_s, maxrss, *rest = usage
    return resource.struct_rusage((user_s, system_s, maxrss * 1024, *rest))


def _member_or_rusage(library: ctypes.CDLL, name: str) -> object:
    return proc_pid_rusage if name == "proc_pid_rusage" else _member(library, name)


def proc_pid_rusage(pid: int, flavour: int, info: ctypes.Array[ctypes.c_char]) -> int:
    """Fill ri_phys_footprint of a process, by Linux's proportional set size; -1 if it has ended."""
    if flavour != RUSAGE_INFO_V2:
        return -1
    try:
        with _read(f"/proc/{pid}/smaps_rollup") as file:
            (size_kb,) = (int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except (OSError, ValueError):
        return -1
    ctypes.c_uint64.from_buffer(info, FOOTPRINT_OFFSET).value = size_kb * 1024
    return 0
