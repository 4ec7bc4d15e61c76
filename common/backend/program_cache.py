"""Cache built programs under weights/coreml/, keyed by their inputs.

The key hashes weights, configs, variant and builder version, so a stale program is never found. A
folder's record.json lists the files of its packages. A damaged package is detected before Core ML
loads it, and rebuilt with a rebuild reason.

Core ML keeps what it prepares under the path of a program. So a package is compiled, checked and
loaded in its final folder, and the record is written last: a folder without one is unfinished.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..common.checkpoint.find import Checkpoint, weights_folder
from ..common.checkpoint.manifest import FileRecord, remembered_sha256
from ..common.checkpoint.tensors import sha256
from ..common.errors import BackendError
from ..common.files import written_whole
from ..common.locks import locked, sweep
from ..common.system import macos_build
from . import system_cache

BUILDER_VERSION = 4  # increment when the same weights give another program
SCHEMA = 2
RECORD = "record.json"
PARTIAL = ".partial-"
KEPT = "loaded, and in macOS's cache"
# the exceptions that a damaged record.json can raise
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of a build; the fields are those of `Record`."""

    seconds: float
    weights_error: float


@dataclass(frozen=True, slots=True)
class Gate:
    """The check of built programs. keys: names of its results, as in `Record.gate_db`.

    check: returns PSNR in dB by key. Raises BackendError for programs that fail.
    """

    keys: Collection[str]
    check: "Callable[[Built], dict[str, float]]"


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

    def was_loaded(self, stage: str, units: str, function: str | None) -> bool:
        """Tell whether this Python on this build of macOS has loaded the program before.

        The first load is slow. Core ML keeps its preparation by system build and executable, and
        macOS may remove it.
        """
        try:
            noted = self._mark(stage, units, function).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        return noted != KEPT or system_cache.holds(macos_build())

    def mark_loaded(self, stage: str, units: str, function: str | None) -> None:
        """Note a load for `was_loaded`, if the folder can be written to."""
        kept = KEPT if system_cache.holds(macos_build()) else "loaded"
        with suppress(OSError), written_whole(self._mark(stage, units, function)) as partial:
            partial.write_text(kept, encoding="utf-8")

    def _mark(self, stage: str, units: str, function: str | None) -> Path:
        loader = f"{macos_build()} {sys.executable}"
        named = hashlib.sha256(loader.encode()).hexdigest()[:8]
        return self.folder / ".".join(filter(None, (stage, function, units, named, "loaded")))

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
    gate: Gate | None = None,
    force: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> Built:
    """Return the cached programs, or build, check and cache them.

    build: writes the packages into a folder and returns its findings. gate: checks them in their
    final folder; cached programs without its results are checked, too. If one of them raises, the
    cache stays unchanged. force: build again. waiting: called once if another process prepares the
    same programs, before waiting for it. Raises BackendError if the disk refuses.
    """
    folder = cache_folder() / f"{name}-{cache_key}"
    built = Built(folder)
    if not force and _is_finished(built, gate):
        return built  # without a lock: the folder may be read-only
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock"), waiting):
            return _find_or_build_alone(built, name, variant, build, gate, force)
    except OSError as error:
        raise BackendError(disk_message(folder, error)) from None


def _is_finished(built: Built, gate: Gate | None) -> bool:
    if not built.folder.exists() or find_damage(built.folder):
        return False
    try:
        return gate is None or set(gate.keys) <= built.record.gate_db.keys()
    except UNREADABLE:  # another process is replacing it
        return False


def _find_or_build_alone(
    built: Built,
    name: str,
    variant: dict[str, str],
    build: Callable[[Built], Findings],
    gate: Gate | None,
    force: bool,
) -> Built:
    """Do the work of `find_or_build` under its lock."""
    folder = built.folder
    _restore(folder)
    asked = "asked to build it again" if force and folder.exists() else ""
    trouble = asked or find_damage(folder)
    if folder.exists() and not trouble:
        if not _is_finished(built, gate):
            assert gate is not None
            _add_gate(built, gate.check(built))
        return built
    sweep(cache_folder(), PARTIAL)
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{os.getpid()}-", dir=cache_folder()))
    try:
        found = build(Built(partial))
        with _swapped(partial, folder):
            gate_db = gate.check(built) if gate else {}
            _write_record(folder, name, variant, found, gate_db)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Built(folder, trouble or "not built before")


def _add_gate(built: Built, gate_db: dict[str, float]) -> None:
    """Add the results of a gate to the record. Raises OSError."""
    record = built.record
    _write_json(built.folder / RECORD, asdict(replace(record, gate_db=record.gate_db | gate_db)))


def find_damage(folder: Path) -> str:
    """Return the damage of a cached folder as a rebuild reason, or '' if intact or absent."""
    if not folder.exists():
        return ""
    if not (folder / RECORD).exists():
        return "it was not finished"
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


def _write_record(
    folder: Path, name: str, variant: dict[str, str], found: Findings, gate_db: dict[str, float]
) -> None:
    files = {
        path.relative_to(folder).as_posix(): FileRecord.of(path, sha256(path))
        for path in _package_files(folder)
    }
    record = Record(SCHEMA, name, variant, found.seconds, gate_db, found.weights_error, files)
    _write_json(folder / RECORD, asdict(record))


@contextmanager
def _swapped(new: Path, folder: Path) -> Iterator[None]:
    """Move `new` to `folder` for the block; if it raises, what was there before comes back."""
    old = _aside(folder)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _restore(folder: Path) -> None:
    """Undo a swap whose process was killed before its record was written."""
    old = _aside(folder)
    if old.exists() and not (folder / RECORD).exists():
        shutil.rmtree(folder, ignore_errors=True)
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".old-{folder.name}")


def _write_json(path: Path, values: object) -> None:
    with written_whole(path) as partial:
        partial.write_text(json.dumps(values, indent=1), encoding="utf-8")


def disk_message(path: Path, error: OSError) -> str:
    why = error.strerror or error
    return (
        f"{path}: the built program cannot be kept ({why}); free space or set $SDXS_WEIGHTS to "
        "another disk"
    )
