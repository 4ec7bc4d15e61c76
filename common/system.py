"""What the operating system knows and Python does not."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

ASK_S = 15.0
# what a container may use, in its two versions
_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def macos_version() -> str:
    """Return the version of macOS, for example '15.5'; '' on other systems.

    `platform.mac_ver` answers 16 for 26 under a Python built with an older SDK (cpython#135675).
    """
    return _sw_vers("productVersion")


def macos_major() -> int | None:
    """Return the first number of the version of macOS, for example 15; None if unknown."""
    major = macos_version().partition(".")[0]
    return int(major) if major.isdecimal() else None


def macos_build() -> str:
    """Return the build of macOS, for example '24F74'; '' on other systems."""
    return _sw_vers("buildVersion")


def memory_bytes() -> int:
    """Return how much memory this process could use at most: the machine's, or a limit below."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    for name in _CONTAINER if sys.platform == "linux" else ():
        with suppress(OSError, ValueError):  # no such file, or it says 'max'
            limits.append(int(Path(name).read_text(encoding="ascii")))
    return min(limits)


@contextmanager
def awake() -> Iterator[None]:
    """Keep macOS and its display from sleeping for lack of a user; nothing on other systems."""
    try:
        # -w: it ends with this process, however that ends
        keeper = (
            subprocess.Popen(
                ["caffeinate", "-d", "-i", "-w", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if sys.platform == "darwin"
            else None
        )
    except OSError:
        keeper = None  # a session is worth more than its wakefulness
    try:
        yield
    finally:
        if keeper:
            keeper.terminate()
            keeper.wait()


def asked(*command: str) -> str:
    """Return what a program of the system prints; '' if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def _sw_vers(what: str) -> str:
    return asked("sw_vers", f"-{what}") if sys.platform == "darwin" else ""
