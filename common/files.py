"""Write files atomically: under a temporary name first, then renamed; and lock what is written."""

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import SdxsError, SinkError, UsageError

LOCK_LOOK_S = 0.25


def user_cache() -> Path:
    """Return the user's cache folder, which may not exist yet; its content can be rebuilt."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdxs"


@contextmanager
def written_whole(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield an empty file beside `path`; rename it to `path` when the block succeeds.

    mode: permissions of the file; by default 0666 less the umask. Raises OSError and leaves `path`
    unchanged. The temporary name keeps the suffix: some writers choose a format by it.
    """
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    partial.touch(0o666 if mode is None else mode, exist_ok=False)
    try:
        yield partial
        if mode is not None:
            partial.chmod(mode)  # regardless of the umask
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, error: type[SdxsError] = SinkError) -> None:
    """Write a file atomically. Raises `error`."""
    try:
        with written_whole(path) as partial:
            partial.write_bytes(data)
    except OSError as trouble:
        raise error(
            f"{path}: cannot be written ({trouble.strerror}); free space or name another place"
        ) from None


def refuse_same_file(option: str, written: Path, read: Path) -> None:
    """Raise UsageError if a file to write is one that is read, under whatever name."""
    with suppress(OSError):
        if written.expanduser().samefile(read.expanduser()):
            raise UsageError(
                f"{option} {written}: is the file that is read ({read}), which it would replace; "
                "name another file"
            )


def check_writable(path: Path, folder: Path) -> None:
    """Raise SinkError unless a file can be created in `folder`; leave no file behind.

    Only an attempt is reliable: mounts, quotas and root defeat a test of the permissions.
    """
    if path.is_dir():
        raise SinkError(
            f"{path}: is a folder, expected a file name; add one, or drop the suffix to write a "
            "folder of PNGs"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SinkError(
            f"{path}: cannot be written to {folder} ({error.strerror}); create it or name another "
            "place"
        ) from None


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the lock file `path` against other processes and threads; it is removed at the end.

    waiting: called once if another holds it; Ctrl-C ends the wait. The system releases the lock of
    a process that dies. Raises OSError if the file cannot be created.
    """
    descriptor = _lock(path, waiting)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: a waiting process looks for that
        os.close(descriptor)


def _lock(path: Path, waiting: Callable[[], None]) -> int:
    """Return the descriptor of the locked file, which `path` still names."""
    said = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
            os.close(descriptor)  # of a file that its last holder has removed
        except FileNotFoundError:
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            if not said:
                waiting()
                said = True
            time.sleep(LOCK_LOOK_S)
        except BaseException:
            os.close(descriptor)
            raise


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
