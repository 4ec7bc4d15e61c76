"""Built programs under weights/coreml/, keyed by what they were built from.

A folder's name is a hash of weights, configs, variant and builder version, so nothing stale is ever
found under the right name. Its record.json lists the package's files; a damaged one is noticed before
Core ML sees it, and rebuilt, saying so.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..common.checkpoint import Checkpoint, weights_folder
from ..common.errors import BackendError
from ..common.manifest import FileRecord
from ..common.tensors import sha256

BUILDER_VERSION = 1  # raise it whenever a program built from the same weights would differ
SCHEMA = 1
RECORD = "record.json"
PACKAGE = "program.mlpackage"
COMPILED = "program.mlmodelc"


@dataclass(frozen=True, slots=True)
class Built:
    """A package in the cache. news: why it had to be built just now, or nothing."""

    folder: Path
    news: str

    @property
    def package(self) -> Path:
        return self.folder / PACKAGE

    @property
    def compiled(self) -> Path:
        """Where Core ML's compiled form is kept, so that a second start does not compile again."""
        return self.folder / COMPILED


@dataclass(frozen=True, slots=True)
class Record:
    """What stands in record.json."""

    schema: int
    name: str
    variant: dict[str, str]
    seconds: float
    files: dict[str, FileRecord]


def cache_folder() -> Path:
    """Where built programs are kept."""
    return weights_folder() / "coreml"


def key(checkpoint: Checkpoint, variant: dict[str, str], library: str) -> str:
    """Hash of everything that decides what is built: 16 hex digits.

    library: version of coremltools, whose passes shape the program.
    """
    digest = hashlib.sha256(f"{BUILDER_VERSION} {library} {sorted(variant.items())}".encode())
    for path in (checkpoint.unet_weights, checkpoint.vae_weights):
        digest.update(_content_hash(path).encode())
    for config in (checkpoint.unet, checkpoint.vae, checkpoint.scheduler, checkpoint.frame):
        digest.update(repr(config).encode())
    return digest.hexdigest()[:16]


def _content_hash(path: Path) -> str:
    """sha256 of a weights file, remembered beside the cache by size and time; 1.3 GB takes seconds."""
    memory = cache_folder() / "hashes.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    entry = known.get(str(path.resolve()))
    if isinstance(entry, dict) and entry.get("stamp") == stamp:
        return str(entry["sha256"])
    found = sha256(path)
    memory.parent.mkdir(parents=True, exist_ok=True)
    known[str(path.resolve())] = {"stamp": stamp, "sha256": found}
    _write_json(memory, known)
    return found


def find_or_build(
    name: str, variant: dict[str, str], cache_key: str, build: Callable[[Path], float], force: bool = False
) -> Built:
    """Return the cached package, or build, check and keep it.

    build: writes a package at the given path, checks it, and returns the seconds it took; whatever
    it raises leaves the cache as it was. Raises BackendError if the disk refuses.
    """
    folder = cache_folder() / f"{name}-{cache_key}"
    trouble = "asked to build it again" if force and folder.exists() else find_damage(folder)
    if not trouble and folder.exists():
        return Built(folder, "")
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache_folder()))
    except OSError as error:
        raise BackendError(_disk_message(cache_folder(), error)) from None
    try:
        seconds = build(partial / PACKAGE)
        _record(partial, name, variant, seconds)
        _swap(partial, folder)
    except OSError as error:
        raise BackendError(_disk_message(folder, error)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Built(folder, trouble or "not built before")


def find_damage(folder: Path) -> str:
    """Say what is wrong with a cached package, or nothing; an absent one is not damaged."""
    if not folder.exists():
        return ""
    try:
        record = read_record(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return "its record is damaged"
    present = {p.relative_to(folder).as_posix() for p in (folder / PACKAGE).rglob("*") if p.is_file()}
    if present != set(record.files):
        return "files are missing or were added"
    for file, expected in record.files.items():
        path = folder / file
        if FileRecord.of(path, expected.sha256) != expected and sha256(path) != expected.sha256:
            return f"{Path(file).name} is damaged"
    return ""


def read_record(folder: Path) -> Record:
    """Read record.json. Raises OSError, ValueError, KeyError or TypeError if it is not one."""
    stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if stored["schema"] != SCHEMA:
        raise ValueError(f"schema {stored['schema']}")
    files = {name: FileRecord(**values) for name, values in stored["files"].items()}
    return Record(SCHEMA, str(stored["name"]), dict(stored["variant"]), float(stored["seconds"]), files)


def list_built() -> list[tuple[Path, Record | None]]:
    """Every folder of the cache with its record, or None where that is damaged."""
    found: list[tuple[Path, Record | None]] = []
    for folder in sorted(p for p in cache_folder().glob("[!.]*") if p.is_dir()):
        try:
            found.append((folder, read_record(folder)))
        except (OSError, ValueError, KeyError, TypeError):
            found.append((folder, None))
    return found


def size_bytes(folder: Path) -> int:
    """Bytes of every file in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _record(folder: Path, name: str, variant: dict[str, str], seconds: float) -> None:
    paths = [p for p in (folder / PACKAGE).rglob("*") if p.is_file()]
    files = {p.relative_to(folder).as_posix(): FileRecord.of(p, sha256(p)) for p in paths}
    _write_json(folder / RECORD, asdict(Record(SCHEMA, name, variant, seconds, files)))


def _swap(new: Path, folder: Path) -> None:
    if folder.exists():
        old = folder.with_name(f".old-{folder.name}")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(folder)


def _write_json(path: Path, values: object) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(values, indent=1), encoding="utf-8")
    partial.replace(path)


def _disk_message(path: Path, error: OSError) -> str:
    return f"{path}: the built program cannot be kept ({error.strerror}); free space or set $SDXS_WEIGHTS to another disk"
