"""Cache built programs under weights/<format>/, keyed by their inputs.

The key hashes weights, configs, variant and builder version, so a stale program is never found. A
folder's record.json lists the files of its programs with their hashes. A damaged one is detected
before a runtime loads it, and rebuilt with a rebuild reason.

A runtime may keep what it prepares under the path of a program. So a program is compiled, checked
and loaded in its final folder, and the record is written last: a folder without one is unfinished.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..adapt.loras import identity
from ..checkpoint.find import Checkpoint, weights_folder
from ..checkpoint.manifest import FileRecord, remembered_sha256
from ..checkpoint.tensors import sha256
from ..errors import BackendError, SdxsWarning
from ..files import can_write, is_file, is_folder, sweep_partials, user_cache, written_whole
from ..locks import locked, sweep

SCHEMA = 2
RECORD = "record.json"
PARTIAL = ".partial-"
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
    check: Callable[[Path], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Record:
    """The content of record.json.

    variant: what identifies the program among those of its checkpoint. seconds: of the build.
    gate_db: PSNR in dB of a probe frame against the reference, by size and runtime; empty before
    the first gate. weights_error: relative error of the compressed weights, 0 without compression.
    """

    schema: int
    name: str
    variant: dict[str, str]
    seconds: float
    gate_db: dict[str, float]
    weights_error: float
    files: dict[str, FileRecord]


def key(checkpoint: Checkpoint, variant: dict[str, str], builder: str) -> str:
    """Hash every input of a build to 16 hex digits.

    builder: versions of the builder and of its library, whose passes change the program. variant:
    with 'control' if the program contains the ControlNet.
    """
    digest = hashlib.sha256(f"{builder} {sorted(variant.items())}".encode())
    for path in (checkpoint.unet_weights, checkpoint.vae_weights):
        digest.update(remembered_sha256(path).encode())
    if checkpoint.control and "control" in variant:
        digest.update(
            (
                remembered_sha256(checkpoint.control.weights) + repr(checkpoint.control.config)
            ).encode()
        )
    digest.update(identity(checkpoint.loras).encode())  # nothing without a LoRA
    for config in (checkpoint.unet, checkpoint.vae, checkpoint.scheduler, checkpoint.frame):
        digest.update(repr(config).encode())
    return digest.hexdigest()[:16]


class ProgramCache:
    """The programs of one format.

    name: its folder in the weights folder. suffix: of a program, a folder such as
    'frame.mlpackage'.
    """

    def __init__(self, name: str, suffix: str) -> None:
        self.name = name
        self.suffix = suffix

    @property
    def folder(self) -> Path:
        """Return the folder that programs are built in: the first place that can be written to."""
        return self._writable()[0]

    def _writable(self) -> list[Path]:
        """Return the places that can be written to; the first place if there is none."""
        written = [place for place in self._places() if can_write(place)]
        # again: what another user has just made is none
        return [place for place in self._places() if place in written] or self._places()[:1]

    def _places(self) -> list[Path]:
        """Return where built programs are looked for: beside the weights, else in a user's place.

        Weights may lie where only others write; and a user may have no home. A temporary folder
        that is not this user's alone is none of them.
        """
        own = Path(tempfile.gettempdir(), f"sdxs-{os.getuid()}")
        places = [weights_folder() / self.name, user_cache() / self.name]
        try:
            found = own.lstat()
        except OSError:
            return [*places, own / self.name]
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        return [*places, own / self.name] if ours and not found.st_mode & 0o022 else places

    def find_or_build(
        self,
        name: str,
        variant: dict[str, str],
        cache_key: str,
        build: Callable[[Path], Findings],
        gate: Gate | None = None,
        force: bool = False,
        waiting: Callable[[], None] = lambda: None,
    ) -> tuple[Path, str]:
        """Build, check and cache programs unless they are cached.

        build: writes the programs into a folder and returns its findings. gate: checks them in
        their final folder; cached programs without its results are checked, too. If one of them
        raises, the cache stays unchanged. force: build again. waiting: called once if another
        process prepares the same programs, before waiting for it. Returns the folder, and the
        rebuild reason or '' if it was cached. Raises BackendError if the disk refuses.
        """
        for place in self._places():
            folder = place / f"{name}-{cache_key}"
            if not force and self._is_finished(folder, gate):
                return folder, ""  # without a lock: the folder may be read-only
        for place in (writable := self._writable()):
            folder = place / f"{name}-{cache_key}"
            if place != self._places()[0]:
                self._say_where(place)
            try:
                place.mkdir(parents=True, exist_ok=True)
                with locked(folder.with_name(f".{folder.name}.lock"), waiting):
                    done = self._find_or_build_alone(folder, name, variant, build, gate, force)
                    return folder, done
            except PermissionError as error:  # what is there is another user's
                if place == writable[-1]:
                    raise BackendError(disk_message(folder, error)) from None
            except OSError as error:
                raise BackendError(disk_message(folder, error)) from None
        raise AssertionError("there is always a place")

    def _say_where(self, place: Path) -> None:
        warnings.warn(
            f"{self.name}: {self._places()[0]} cannot be written to, so the program is kept in "
            f"{place}; set $SDXS_WEIGHTS to a folder that can be",
            SdxsWarning,
            stacklevel=2,
        )

    def _is_finished(self, folder: Path, gate: Gate | None) -> bool:
        try:
            if not folder.exists() or self.find_damage(folder):
                return False
            return gate is None or set(gate.keys) <= read_record(folder).gate_db.keys()
        except UNREADABLE:  # another process is replacing it, or it is another user's
            return False

    def _find_or_build_alone(
        self,
        folder: Path,
        name: str,
        variant: dict[str, str],
        build: Callable[[Path], Findings],
        gate: Gate | None,
        force: bool,
    ) -> str:
        """Do the work of `find_or_build` under its lock; return the rebuild reason."""
        _restore(folder)
        asked = "asked to build it again" if force and folder.exists() else ""
        trouble = asked or self.find_damage(folder)
        if folder.exists() and not trouble:
            if not self._is_finished(folder, gate):
                assert gate is not None
                _add_gate(folder, gate.check(folder))
            return ""
        sweep(folder.parent, PARTIAL)
        partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{os.getpid()}-", dir=folder.parent))
        try:
            found = build(partial)
            with _swapped(partial, folder):
                gate_db = gate.check(folder) if gate else {}
                self._write_record(folder, name, variant, found, gate_db)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return trouble or "not built before"

    def find_damage(self, folder: Path) -> str:
        """Return the damage of a cached folder as a rebuild reason, or '' if intact or absent."""
        if not folder.exists():
            return ""
        if not (folder / RECORD).exists():
            return "it was not finished"
        try:
            record = read_record(folder)
        except UNREADABLE:
            return "its record is damaged"
        there = {path.relative_to(folder).as_posix() for path in self._files(folder)}
        if there != set(record.files):
            return "files are missing or were added"
        for file, expected in record.files.items():
            path = folder / file
            if not expected.stands_for(path) and sha256(path) != expected.sha256:
                return f"{Path(file).name} is damaged"
        return ""

    def listed(self) -> list[tuple[Path, Record | None]]:
        """Return every folder of the cache with its record, or None for a damaged record."""
        found: list[tuple[Path, Record | None]] = []
        folders = [p for place in self._places() for p in place.glob("[!.]*") if is_folder(p)]
        for folder in sorted(folders):
            try:
                found.append((folder, read_record(folder)))
            except UNREADABLE:
                found.append((folder, None))
        return found

    def _files(self, folder: Path) -> list[Path]:
        programs = folder.glob(f"*{self.suffix}")
        return [path for program in programs for path in program.rglob("*") if path.is_file()]

    def _write_record(
        self,
        folder: Path,
        name: str,
        variant: dict[str, str],
        found: Findings,
        gate_db: dict[str, float],
    ) -> None:
        files = {
            path.relative_to(folder).as_posix(): FileRecord.of(path, sha256(path))
            for path in self._files(folder)
        }
        record = Record(SCHEMA, name, variant, found.seconds, gate_db, found.weights_error, files)
        _write_json(folder / RECORD, asdict(record))


def _add_gate(folder: Path, gate_db: dict[str, float]) -> None:
    """Add the results of a gate to the record. Raises OSError."""
    record = read_record(folder)
    _write_json(folder / RECORD, asdict(replace(record, gate_db=record.gate_db | gate_db)))


def read_record(folder: Path) -> Record:
    """Read record.json. Raises one of UNREADABLE if it is damaged."""
    stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if stored["schema"] != SCHEMA:
        raise ValueError(f"schema {stored['schema']}")
    files = {name: FileRecord(**values) for name, values in stored["files"].items()}
    gate_db = {str(size): float(found) for size, found in stored["gate_db"].items()}
    figures = float(stored["seconds"]), gate_db, float(stored["weights_error"])
    return Record(SCHEMA, str(stored["name"]), dict(stored["variant"]), *figures, files)


def size_bytes(folder: Path) -> int:
    """Return the total bytes of the files in a folder, as far as it can be read."""
    return sum(p.stat().st_size for p in folder.rglob("*") if is_file(p))


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
    sweep_partials(path.parent)
    with written_whole(path) as partial:
        partial.write_text(json.dumps(values, indent=1), encoding="utf-8")


def disk_message(path: Path, error: OSError) -> str:
    why = error.strerror or error
    return (
        f"{path}: the built program cannot be kept ({why}); free space or set $SDXS_WEIGHTS to "
        "another disk"
    )
