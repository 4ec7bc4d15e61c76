"""Lock what several processes write, and remove what a killed one has left.

The system releases a lock of `flock` when its process dies, however it dies. So whatever is locked
has a living writer, and what is not has none.
"""

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_LOOK_S = 0.25
YOUNG_S = 60.0  # a file may be this old before its writer has locked it


@contextmanager
def locked(path: Path, waiting: Callable[[], None], patience_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock file `path` against other processes and threads; it is removed at the end.

    Yields whether another held it. waiting: called once if another still holds it after
    `patience_s`; Ctrl-C ends the wait. The system releases the lock of a process that dies. A link
    in the place of the file is not followed. Raises OSError if the file cannot be created.
    """
    descriptor, waited = _lock(path, waiting, patience_s)
    try:
        yield waited
    finally:
        with suppress(OSError):
            path.unlink()  # before the release: a waiting process looks for that
        os.close(descriptor)


def _lock(path: Path, waiting: Callable[[], None], patience_s: float) -> tuple[int, bool]:
    """Return the descriptor of the locked file, which `path` still names, and whether it waited."""
    waited, said, began = False, False, time.monotonic()
    while True:
        descriptor = _open_lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor, waited
            os.close(descriptor)  # of a file that its last holder has removed
        except FileNotFoundError:
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            waited = True
            if not said and time.monotonic() - began >= patience_s:
                waiting()
                said = True
            time.sleep(LOCK_LOOK_S)
        except BaseException:
            os.close(descriptor)
            raise


def _open_lock(path: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | flags, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags, 0o666)  # another user's, left by a killed process


def mark_alive(descriptor: int) -> None:
    """Let `remove_abandoned` spare an open file until it is closed, or its process is gone."""
    with suppress(OSError):  # without locks on this disk, none is swept either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_abandoned(place: Path) -> None:
    """Remove a file that was marked alive and that nobody holds any more; never raises.

    A file younger than YOUNG_S stays, and so does what is no plain file.
    """
    with suppress(OSError):
        about = place.lstat()
        if not stat.S_ISREG(about.st_mode) or time.time() - about.st_mtime < YOUNG_S:
            return
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place.unlink()
        finally:
            os.close(descriptor)


def sweep(folder: Path, prefix: str) -> None:
    """Remove the folders `<prefix><pid>-...` in `folder` whose process is gone."""
    for place in folder.glob(f"{prefix}*"):
        pid = place.name.removeprefix(prefix).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except (ValueError, ProcessLookupError):
            shutil.rmtree(place, ignore_errors=True)
        except OSError:
            continue  # a live process of another user
