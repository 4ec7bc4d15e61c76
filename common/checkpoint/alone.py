"""Let one process at a time write a checkpoint; what several write, they write in turn."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SdxsWarning
from ..locks import locked
from .manifest import record_key

MOST_NAME_BYTES = 200  # a file system takes 255, with the dot and the suffix


@contextmanager
def writing(folder: Path, manifest: Path) -> Iterator[bool]:
    """Hold the lock of a checkpoint folder, which a pull and an import take alike.

    Yields whether another process held it: then look again what is left to do. Waits with one
    warning. Raises OSError where the lock cannot be written beside the manifest.
    """

    def waiting() -> None:
        warnings.warn(
            f"another process writes {folder}; waiting until it is done", SdxsWarning, stacklevel=2
        )

    manifest.parent.mkdir(parents=True, exist_ok=True)
    with locked(_lock_file(folder, manifest), waiting) as waited:
        yield waited


def _lock_file(folder: Path, manifest: Path) -> Path:
    """Return `.NAME.lock` beside the manifest, with a hash for a folder that is elsewhere."""
    key = record_key(folder, manifest)
    if "/" in key or len(os.fsencode(key)) > MOST_NAME_BYTES:
        name = os.fsdecode(os.fsencode(Path(key).name)[:MOST_NAME_BYTES])
        key = f"{name}-{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}"
    return manifest.with_name(f".{key}.lock")
