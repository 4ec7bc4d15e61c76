"""What a system runs out of: memory, threads, processes, open files.

Python and every library say it in their own way. `shortage` knows these ways. The command line and
the API ask it at their edge, so no code between has to.
"""

import errno
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SdxsError, ShortageError, in_a_line

_MEMORY, _THREADS, _FILES = "memory", "threads", "files"
_NUMBERS = {
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: _THREADS,  # of fork and of a new thread
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}
# What libraries write where they raise an error of their own.
_WORDS = (
    (
        _MEMORY,
        re.compile(
            r"bad_alloc|(unable|failed|cannot|can't) to? ?allocate|out of memory"
            r"|insufficient memory|failed to map segment|\bos error 12\b",
            re.IGNORECASE,
        ),
    ),
    (
        _THREADS,
        re.compile(
            r"can't start new thread|resource temporarily unavailable|\bos error 11\b",
            re.IGNORECASE,
        ),
    ),
    (_FILES, re.compile(r"too many open files|\bos error 24\b", re.IGNORECASE)),
)


def shortage(error: BaseException) -> ShortageError | None:
    """Return the error of ours for a limit of the system that was reached, None for any other.

    An error of ours that was raised because of one counts, too: its own remedy would not help.
    """
    cause = _cause(error)
    if cause is None:
        return None
    kind, said = _kind(cause), in_a_line(cause) or type(cause).__name__
    if kind == _MEMORY:
        return ShortageError(
            f"memory ran out ({said}); end other programs, or take a smaller --size"
        )
    if kind == _THREADS:
        return ShortageError(
            f"no further thread or process can be started ({said}); end other programs, or raise "
            "the limit (ulimit -u)"
        )
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ShortageError(
        f"no further file can be opened, {most} at most ({said}); close what is open, or raise the "
        "limit (ulimit -n)"
    )


def _cause(error: BaseException) -> BaseException | None:
    """Return the error that says which limit was reached, or None."""
    if isinstance(error, ShortageError):
        return None
    if isinstance(error, SdxsError):
        behind = error.__cause__ or error.__context__
        return None if behind is None else _cause(behind)
    return error if _kind(error) else None


def _kind(error: BaseException) -> str | None:
    if not isinstance(error, Exception):
        return None
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        return _NUMBERS.get(error.errno)
    text = str(error)
    return next((kind for kind, words in _WORDS if words.search(text)), None)


@contextmanager
def shortages() -> Iterator[None]:
    """Raise a limit of the system that is reached within as an error of ours; also a decorator."""
    try:
        yield
    except Exception as error:
        if (ours := shortage(error)) is None:
            raise
        raise ours from error


def check_address_space(name: str, least: int) -> None:
    """Raise ShortageError if a limit (ulimit -v) leaves less than `least` bytes of addresses.

    For code that ends the process where it gets none. name: of what needs them.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = Path("/proc/self/statm")
    if limit == resource.RLIM_INFINITY or not pages.exists():
        return
    left = limit - int(pages.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    if left < least:
        raise ShortageError(
            f"memory ran out: {name} needs {least / 1e9:.1f} GB of addresses and a limit leaves "
            f"{max(0, left) / 1e9:.1f}; raise the limit (ulimit -v)"
        )


def check_threads(name: str, least: int) -> None:
    """Raise ShortageError if fewer than `least` further threads can be started at once.

    For code that ends the process where it gets none; it is tried. name: of what needs them.
    """
    over, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(least):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise ShortageError(
            f"no further thread can be started ({in_a_line(error)}): {name} needs {least}, there "
            f"are {len(started)}; end other programs, or raise the limit (ulimit -u)"
        ) from None
    finally:
        over.set()
        for thread in started:
            thread.join()
