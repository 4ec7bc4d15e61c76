"""The folder of a download that is not complete yet: `weights/.partial-<name>/`.

Only sdxs writes there, under the lock of `alone.writing`. A link in it is not followed.
"""

import errno
import io
import os
import shutil
import stat
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import WeightsError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """Describe a file on the hub. hash: sha256 of a large file, git's sha1 of a small one."""

    path: str
    size: int
    hash: str


class TooLong(Exception):
    """A file would become longer than announced."""


class Announced(io.FileIO):
    """A file that a download is added to, up to the size that was announced."""

    def __init__(self, path: Path, most: int) -> None:
        """Open or create `path`, not through a link. most: bytes. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        super().__init__(os.open(path, flags, 0o666), "ab")
        self._most = most

    def write(self, data: "ReadableBuffer", /) -> int:
        """Add all of `data`. Raises TooLong before a byte too many, OSError for a full disk."""
        rest = memoryview(data).cast("B")
        if self.tell() + rest.nbytes > self._most:
            raise TooLong
        while rest.nbytes:
            rest = rest[super().write(rest) or 0 :]
        return memoryview(data).nbytes


def growing_file(partial: Path, file: RemoteFile) -> Path:
    return partial / f"{file.path}.part"


def refuse_links(partial: Path) -> None:
    """Raise OSError if the folder is a link or has one in it, which would be written through.

    A file with a second name is refused, too.
    """
    places = [partial]
    for folder, folders, files in os.walk(partial):
        places += [Path(folder, name) for name in (*folders, *files)]
    for place in places:
        with suppress(FileNotFoundError):
            found = place.lstat()
            if stat.S_ISLNK(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink > 1):
                raise OSError(errno.ELOOP, "a link, which is not followed; remove it", str(place))


def check_space(partial: Path, wanted: Sequence[RemoteFile]) -> None:
    needed = 0
    for file in wanted:
        present = [
            p.stat().st_size
            for p in (partial / file.path, growing_file(partial, file))
            if p.is_file()
        ]
        needed += max(0, file.size - sum(present))
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise WeightsError(
            f"{partial}: {needed / 1e9:.1f} GB still to download, {free / 1e9:.1f} GB free; "
            "free space or set $SDXS_WEIGHTS to a folder on another disk"
        )


def remove_strays(partial: Path, names: Collection[str]) -> None:
    """Delete the files of an interrupted pull with another VAE."""
    for path in partial.rglob("*"):
        if path.is_file() and path.relative_to(partial).as_posix() not in names:
            path.unlink()


def move(source: Path, target: Path) -> None:
    """Move a tree into place by renaming; merge folders that exist in the target."""
    if not (source.is_dir() and target.is_dir()):
        source.replace(target)
        return
    for child in sorted(source.iterdir()):
        move(child, target / child.name)
    source.rmdir()
