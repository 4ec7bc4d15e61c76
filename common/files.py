"""Files written whole or not at all: under a temporary name first, then renamed."""

import tempfile
from pathlib import Path

from .errors import SinkError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises SinkError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SinkError(
            f"{path}: cannot be written ({error.strerror}); free space or name another place"
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
