"""Files written whole or not at all: under a temporary name first, then renamed."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SdxsError, SinkError


def user_cache() -> Path:
    """Return the folder of everything that can be made again; it may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdxs"


@contextmanager
def written_whole(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield an empty file beside `path`; rename it to `path` when the block ends well.

    mode: of the file, by default what the umask leaves of 0666. Raises OSError, and then `path` is
    as it was. The suffix is kept: some writers choose a format by it.
    """
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    partial.touch(0o666 if mode is None else mode, exist_ok=False)
    try:
        yield partial
        if mode is not None:
            partial.chmod(mode)  # the umask has no say in it
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, error: type[SdxsError] = SinkError) -> None:
    """Write a file whole or not at all. Raises `error`."""
    try:
        with written_whole(path) as partial:
            partial.write_bytes(data)
    except OSError as trouble:
        raise error(
            f"{path}: cannot be written ({trouble.strerror}); free space or name another place"
        ) from None


def check_writable(path: Path, folder: Path) -> None:
    """Create nothing, but raise SinkError unless a file can be made in `folder`; only trying tells
    (mounts, quotas, root).
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
