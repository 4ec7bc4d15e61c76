"""The three standard streams as a command needs them: open, for any text, and never raising."""

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

UTF8 = "PYTHONUTF8"
ANY_TEXT = "sdxs-any-text"


def _any_text(error: UnicodeError) -> tuple[bytes, int]:
    r"""Encode what an encoding lacks: bytes of file names as they are, characters as \u2026."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    made = [
        bytes([ord(each) & 0xFF]) if "\udc80" <= each <= "\udcff" else ascii(each)[1:-1].encode()
        for each in lacking
    ]
    return b"".join(made), error.end


codecs.register_error(ANY_TEXT, _any_text)


def use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode if its locale can name only ASCII files.

    Python has that mode by itself under LC_ALL=C, but not with PYTHONUTF8=0. Without it, words and
    names with é reach nobody whole: not the tokenizer, nor a library that opens a file.
    """
    if sys.flags.utf8_mode or codecs.lookup(sys.getfilesystemencoding()).name != "ascii":
        return
    os.environ[UTF8] = "1"  # for children, too
    with suppress(OSError):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_missing() -> None:
    """Open /dev/null in the place of each standard stream that was closed before the start.

    A file would get the number of a closed one, and a child process would lack it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


class Unfailing:
    """A stream for text that goes on without what cannot be written, as on a full disk.

    A broken pipe still ends the command: nobody listens any more. lost: what went wrong first.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors=ANY_TEXT)

    def write(self, text: str) -> int:
        with self._noting():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._noting():
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self.lost = self.lost or error
            self._drain()

    def _drain(self) -> None:
        """Send what is still in the buffer nowhere: it would raise again when Python ends."""
        with suppress(OSError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            self._stream.flush()


@contextmanager
def unfailing() -> Iterator[Unfailing]:
    """Let standard output and error lose what cannot be written; yield standard output."""
    before = sys.stdout, sys.stderr
    out, err = (Unfailing(stream) for stream in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = before


def lost_output(error: OSError) -> str:
    """Return the message for standard output that could not be written."""
    return (
        f"standard output cannot be written ({error.strerror or error}), and what was said there "
        "is lost; free space or send it elsewhere"
    )
