"""Write files atomically: under a temporary name first, then renamed.

`refuse_overlaps` is the one check that no command overwrites what it reads.
"""

import errno
import hashlib
import os
import re
import secrets
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, count
from pathlib import Path

from .errors import SdxsError, SinkError, UsageError
from .locks import mark_alive, remove_abandoned

LONG_NAME, LONG_SUFFIX = 64, 16  # bytes
_TOKEN = re.compile(r"(?<=\.)[0-9a-f]{8}(?=\.partial(\.[^.]*)?$)")


def home_folder() -> Path:
    """Return the user's home; for a user without one, a place where nothing can be."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def expanded(path: str | Path) -> Path:
    """Return a path with the home for a leading `~`; one of an unknown user stays as it is.

    Path.expanduser raises RuntimeError for that.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


def user_cache() -> Path:
    """Return the user's cache folder, which may not exist yet; its content can be rebuilt."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache") / "sdxs"


def user_config() -> Path:
    """Return the user's folder of settings, which may not exist yet."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or home_folder() / ".config") / "sdxs"


def working_folder_is_gone() -> bool:
    """Tell whether the working folder has been removed, so that relative paths lead nowhere."""
    try:
        Path.cwd()
    except OSError:
        return True
    return False


@contextmanager
def best_effort(*also: type[Exception]) -> Iterator[None]:
    """Use a cache, or clean up: what cannot be read or written there costs time, no more.

    also: errors beside OSError.
    """
    with suppress(OSError, *also):
        yield


def beside(path: Path, mark: str) -> Path:
    """Return a hidden name beside `path` for what is not done yet: `.<stem>.<mark><suffix>`.

    It is never longer than that of `path`, or than 64 bytes: a file system that takes the one takes
    the other. A stem is cut for that; what was cut off is in a hash. The suffix stays if it is one:
    some writers choose a format by it.
    """
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= LONG_SUFFIX else ""
    stem, room = path.stem, max(len(os.fsencode(path.name)), LONG_NAME)
    if len(os.fsencode(f".{stem}.{mark}{suffix}")) > room:
        mark = f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]}.{mark}"
        while len(os.fsencode(f".{stem}.{mark}{suffix}")) > room:
            stem = stem[:-1]  # by characters: half a one is no name everywhere
    return path.with_name(f".{stem}.{mark}{suffix}")


def free_name(path: Path) -> Path:
    """Return `path`, or with a number the next name that no file has: `sdxs-2.png`."""
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(name for name in chain([path], names) if not name.exists())


@contextmanager
def written_whole(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield an empty file beside `path`; rename it to `path` when the block succeeds.

    mode: permissions of the file; by default 0666 less the umask. Raises OSError and leaves `path`
    unchanged. The temporary name keeps the suffix: some writers choose a format by it.
    """
    partial = beside(path, f"{secrets.token_hex(4)}.partial")
    # O_EXCL: a file or a link that is there is neither followed nor written to
    descriptor = os.open(
        partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode
    )
    try:
        mark_alive(descriptor)
        yield partial
        if mode is not None:
            partial.chmod(mode)  # regardless of the umask
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()
        os.close(descriptor)


def sweep_partials(folder: Path, target: Path | None = None) -> None:
    """Remove what killed writers of `written_whole` have left in a folder; never raises.

    target: sweep only what was to become this file; without it, the folder is one that only sdxs
    writes. Files of living writers stay.
    """
    with suppress(OSError):
        mark = f"{'0' * 8}.partial"
        wanted = beside(target, mark).name if target else ""
        for place in list(folder.iterdir()):
            named, tokens = _TOKEN.subn("0" * 8, place.name)
            if tokens and place.name.startswith(".") and named == (wanted or named):
                remove_abandoned(place)


def write_whole(path: Path, data: bytes, error: type[SdxsError] = SinkError) -> None:
    """Write a file atomically. Raises `error`."""
    try:
        with written_whole(path) as partial:
            partial.write_bytes(data)
    except OSError as trouble:
        raise error(
            f"{path}: cannot be written ({trouble.strerror}); free space or name another place"
        ) from None


@dataclass(frozen=True, slots=True)
class Written:
    """A file that a command writes, or files in a folder.

    option: as messages name it. names: pattern of the files that are written into the folder
    `path`, as 'frame-*.png'; '' if `path` is the file.
    """

    option: str
    path: Path
    names: str = ""


def refuse_overlaps(
    reads: Iterable[tuple[str, Path | None]], writes: Iterable[Written | None]
) -> None:
    """Raise UsageError if a file would be written that is read, or written twice.

    reads: pairs of option and file, or folder of which every file is read. None stands for an
    option that is not given. Files are compared as the system does: links lead to one file, and
    where a folder ignores case, so do their names.
    """
    read = [(option, path) for option, path in reads if path is not None]
    earlier: list[Written] = []
    for each in filter(None, writes):
        for option, path in read:
            if _overwrites(each, path):
                what = "also" if each.names or not is_folder(path) else "a file of"
                raise UsageError(
                    f"{each.option} {each.path}: is {what} {option} {path}, which it would "
                    f"overwrite; name another {'folder' if each.names else 'file'}"
                )
        for other in earlier:
            if _meet(each, other):
                raise UsageError(
                    f"{each.option} {each.path}: is also {other.option} {other.path}, and one "
                    "would overwrite the other; name another file"
                )
        earlier.append(each)


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; a name that no file can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Tell whether a path is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _overwrites(written: Written, read: Path) -> bool:
    """Tell whether a file that is read, or one of a folder, is among those written."""
    if not written.names and _is_same(written.path, read):
        return True
    found = written.path.glob(written.names) if written.names else [written.path]
    places = {place for path in found if (place := _place(path))}
    return bool(places) and any(
        _place(path) in places for path in (read.rglob("*") if is_folder(read) else [read])
    )


def _meet(one: Written, other: Written) -> bool:
    """Tell whether two outputs are one file, one folder, or a file that the other's folder has."""
    if _is_same(one.path, other.path):
        return True
    return any(
        bool(folder.names)
        and not file.names
        and fnmatchcase(file.path.name.casefold(), folder.names)
        and _is_same(file.path.parent, folder.path)
        for folder, file in ((one, other), (other, one))
    )


def _place(path: Path) -> tuple[int, int] | None:
    """Return what the system knows a file by, or None if there is none. Links are followed."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_same(one: Path, other: Path) -> bool:
    """Tell whether two paths are one place, which need not exist yet."""
    first, second = (Path(os.path.realpath(path)) for path in (one, other))
    places = _place(first), _place(second)
    if first == second or any(places):
        return first == second or places[0] == places[1]
    # neither is there yet, and the names may still become one file
    alike = _folded(first.name) == _folded(second.name)
    folder = _place(first.parent)
    beside = folder is not None and folder == _place(second.parent)
    return alike and beside and _are_one_name(first.parent, first.name, second.name)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFD", name).casefold()


def _are_one_name(folder: Path, first: str, second: str) -> bool:
    """Tell whether a file system takes two names for one, as macOS does whatever their case."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".sdxs-") as probe:
            (Path(probe) / first).touch()
            return (Path(probe) / second).exists()
    except OSError:
        return False  # the write raises the error


def without_folders(value: object) -> object:
    """Return a value as JSON takes it, paths cut to their last name: files are passed on."""
    if isinstance(value, (list, tuple)):
        return [without_folders(each) for each in value]
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith(("/", "~"))):
        return Path(value).name
    return value


def can_write(folder: Path) -> bool:
    """Tell whether files can be created in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def check_writable(path: Path, folder: Path) -> None:
    """Raise SinkError unless a file can be created in `folder`; leave no file behind.

    Only an attempt is reliable: mounts, quotas and root defeat a test of the permissions.
    """
    if is_folder(path):
        raise SinkError(
            f"{path}: is a folder, expected a file name; add one, or drop the suffix to write a "
            "folder of PNGs"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        with suppress(FileNotFoundError):
            path.lstat()  # is it a name that a file can have?
    except ValueError:
        raise SinkError(f"{str(path)!r}: is no name of a file; name another") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SinkError(
                f"{path}: the name is too long for {folder} ({len(os.fsencode(path.name))} bytes); "
                "shorten it"
            ) from None
        raise SinkError(
            f"{path}: cannot be written to {folder} ({error.strerror}); create it or name another "
            "place"
        ) from None
