"""A temporary folder for everything that mac-check writes, on the disk of the weights."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.checkpoint.find import weights_folder
from ..common.errors import SinkError
from ..common.locks import sweep

PREFIX = ".mac-check-"
GB = 10**9
FULL_GB, QUICK_GB = 10, 1


@contextmanager
def scratch_folder(needed_gb: int) -> Iterator[Path]:
    """Yield an empty folder, and remove it with all its content.

    It also removes the folders of checks that were killed. Raises SinkError if the disk has less
    than `needed_gb` free.
    """
    base = weights_folder()
    try:
        base.mkdir(parents=True, exist_ok=True)
        sweep(base, PREFIX)
        _refuse_full_disk(base, needed_gb)
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
    except OSError as error:
        raise SinkError(
            f"{base}: cannot be written to ({error.strerror}); set $SDXS_WEIGHTS to another folder"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_full_disk(base: Path, needed_gb: int) -> None:
    free = shutil.disk_usage(base).free
    if free < needed_gb * GB:
        raise SinkError(
            f"{base}: {free / GB:.1f} GB of disk are free, expected {needed_gb} GB for the "
            "temporary models of mac-check; free space, set $SDXS_WEIGHTS to another disk, or use "
            "--quick"
        )
