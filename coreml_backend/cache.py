"""Cache built programs under weights/coreml/, keyed by their inputs.

The key hashes weights, configs, variant and builder version, so a stale program is never found. A
folder's record.json lists the files of its packages. A damaged package is detected before Core ML
loads it, and rebuilt with a rebuild reason.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..common.checkpoint.find import Checkpoint, weights_folder
from ..common.checkpoint.manifest import FileRecord, remembered_sha256
from ..common.checkpoint.tensors import sha256
from ..common.errors import BackendError
from ..common.files import written_whole

BUILDER_VERSION = 3  # increment when the same weights give another program
SCHEMA = 2
RECORD = "record.json"
PARTIAL = ".partial-"
# the exceptions that a damaged record.json can raise
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of a build; the fields are those of `Record`."""

    seconds: float
    gate_db: dict[str, float]
    weights_error: float


@dataclass(frozen=True, slots=True)
class Record:
    """The content of record.json.

    variant: `CoreMLOptions.identity`. seconds: of the build. gate_db: PSNR in dB of a probe frame
    against the reference, by `prepare.gate_key`; empty before the first gate. weights_error:
    relative error of the compressed weights, 0 without compression.
    """

    schema: int
    name: str
    variant: dict[str, str]
    seconds: float
    gate_db: dict[str, float]
    weights_error: float
    files: dict[str, FileRecord]


@dataclass(frozen=True, slots=True)
class Built:
    """A folder of the cache. news: the rebuild reason, or '' if it was cached."""

    folder: Path
    news: str = ""

    def package(self, stage: str) -> Path:
        return self.folder / f"{stage}.mlpackage"

    def compiled(self, stage: str) -> Path:
        """Return the path of Core ML's compiled form, kept for later starts."""
        return self.folder / f"{stage}.mlmodelc"

    def met(self, stage: str, units: str) -> Path:
        """Return the marker of a first load on these units; the first load is slow."""
        return self.folder / f"{stage}.{units}.loaded"

    @property
    def record(self) -> Record:
        return read_record(self.folder)


def cache_folder() -> Path:
    """Return the folder of the built programs."""
    return weights_folder() / "coreml"


def key(checkpoint: Checkpoint, variant: dict[str, str], library: str) -> str:
    """Hash every input of a build to 16 hex digits.

    library: version of coremltools, because its passes change the program.
    """
    digest = hashlib.sha256(f"{BUILDER_VERSION} {library} {sorted(variant.items())}".encode())
    for path in (checkpoint.unet_weights, checkpoint.vae_weights):
        digest.update(remembered_sha256(path).encode())
    if checkpoint.control and "control" in variant:
        digest.update(
            (
                remembered_sha256(checkpoint.control.weights) + repr(checkpoint.control.config)
            ).encode()
        )
    for config in (checkpoint.unet, checkpoint.vae, checkpoint.scheduler, checkpoint.frame):
        digest.update(repr(config).encode())
    return digest.hexdigest()[:16]


def find_or_build(
    name: str,
    variant: dict[str, str],
    cache_key: str,
    build: Callable[[Built], Findings],
    force: bool = False,
) -> Built:
    """Return the cached programs, or build, check and cache them.

    build: writes the packages into a folder, checks them and returns its findings. If it raises,
    the cache stays unchanged. force: build again. Raises BackendError if the disk refuses.
    """
    folder = cache_folder() / f"{name}-{cache_key}"
    trouble = "asked to build it again" if force and folder.exists() else find_damage(folder)
    if not trouble and folder.exists():
        return Built(folder)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        _sweep()
        partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{os.getpid()}-", dir=cache_folder()))
    except OSError as error:
        raise BackendError(disk_message(cache_folder(), error)) from None
    try:
        _write_record(partial, name, variant, build(Built(partial)))
        _swap(partial, folder)
    except OSError as error:
        raise BackendError(disk_message(folder, error)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Built(folder, trouble or "not built before")


def add_gate(built: Built, gate_db: dict[str, float]) -> None:
    """Add the results of a gate to the record.

    Raises BackendError if the disk refuses.
    """
    try:
        _write_json(
            built.folder / RECORD,
            asdict(replace(built.record, gate_db=built.record.gate_db | gate_db)),
        )
    except OSError as error:
        raise BackendError(disk_message(built.folder, error)) from None


def _sweep() -> None:
    """Remove the partial folders of killed builds, whose process is gone."""
    for folder in cache_folder().glob(f"{PARTIAL}*"):
        pid = folder.name.removeprefix(PARTIAL).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except (ValueError, ProcessLookupError):
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # a live process of another user


def find_damage(folder: Path) -> str:
    """Return the damage of a cached folder as a rebuild reason, or '' if intact or absent."""
    if not folder.exists():
        return ""
    try:
        record = read_record(folder)
    except UNREADABLE:
        return "its record is damaged"
    if {path.relative_to(folder).as_posix() for path in _package_files(folder)} != set(
        record.files
    ):
        return "files are missing or were added"
    for file, expected in record.files.items():
        path = folder / file
        if not expected.stands_for(path) and sha256(path) != expected.sha256:
            return f"{Path(file).name} is damaged"
    return ""


def read_record(folder: Path) -> Record:
    """Read record.json. Raises one of UNREADABLE if it is damaged."""
    stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if stored["schema"] != SCHEMA:
        raise ValueError(f"schema {stored['schema']}")
    files = {name: FileRecord(**values) for name, values in stored["files"].items()}
    gate_db = {str(size): float(found) for size, found in stored["gate_db"].items()}
    figures = float(stored["seconds"]), gate_db, float(stored["weights_error"])
    return Record(SCHEMA, str(stored["name"]), dict(stored["variant"]), *figures, files)


def list_built() -> list[tuple[Path, Record | None]]:
    """Return every folder of the cache with its record, or None for a damaged record."""
    found: list[tuple[Path, Record | None]] = []
    for folder in sorted(p for p in cache_folder().glob("[!.]*") if p.is_dir()):
        try:
            found.append((folder, read_record(folder)))
        except UNREADABLE:
            found.append((folder, None))
    return found


def size_bytes(folder: Path) -> int:
    """Return the total bytes of the files in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _package_files(folder: Path) -> list[Path]:
    return [
        path
        for package in folder.glob("*.mlpackage")
        for path in package.rglob("*")
        if path.is_file()
    ]


def _write_record(folder: Path, name: str, variant: dict[str, str], found: Findings) -> None:
    files = {
        path.relative_to(folder).as_posix(): FileRecord.of(path, sha256(path))
        for path in _package_files(folder)
    }
    record = Record(SCHEMA, name, variant, found.seconds, found.gate_db, found.weights_error, files)
    _write_json(folder / RECORD, asdict(record))


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
    with written_whole(path) as partial:
        partial.write_text(json.dumps(values, indent=1), encoding="utf-8")


def disk_message(path: Path, error: OSError) -> str:
    why = error.strerror or error
    return (
        f"{path}: the built program cannot be kept ({why}); free space or set $SDXS_WEIGHTS to "
        "another disk"
    )
