"""What was verified, and when a file may be trusted without hashing it again.

`weights/manifest.json` records the sha256, size and modification time of each pulled file.
A checkpoint that ships with the code carries a `SHA256SUMS` file instead, which
`sha256sum --check` reads too.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import WeightsError
from .tensors import sha256

SCHEMA = 1
SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was when its hash was verified."""

    sha256: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, digest: str) -> "FileRecord":
        stat = path.stat()
        return cls(digest, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Record:
    """A verified checkpoint: where it came from and what its files were."""

    folder: str
    repo: str
    revision: str
    files: dict[str, FileRecord]


def read_manifest(path: Path) -> dict[str, Record]:
    """Records by folder; empty if there is no manifest. Raises WeightsError if it is damaged."""
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["schema"] != SCHEMA:
            raise WeightsError(f"{path}: schema {stored['schema']}, expected {SCHEMA}; it is from another version of sdxs")
        return {
            r["folder"]: Record(
                r["folder"], r["repo"], r["revision"], {name: FileRecord(**f) for name, f in r["files"].items()}
            )
            for r in stored["checkpoints"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: damaged ({error!r}); delete it and run `sdxs weights verify`") from None


def write_record(path: Path, record: Record) -> None:
    """Add or replace one record, atomically."""
    records = read_manifest(path) | {record.folder: record}
    stored = {"schema": SCHEMA, "checkpoints": [asdict(r) for r in records.values()]}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".manifest-")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(stored, file, indent=1)
    os.replace(temporary, path)


def verify_hashes(folder: Path, manifest: Path, rehash: bool = False) -> int:
    """Compare a checkpoint's files with their recorded hashes; return how many were compared.

    Files whose size and time equal the record are taken as verified unless `rehash`. A folder
    with neither a record nor a SHA256SUMS file has nothing to compare with: 0. Raises WeightsError.
    """
    record = read_manifest(manifest).get(str(folder.resolve()))
    if record is not None:
        for name, expected in record.files.items():
            path = _present(folder, name)
            if rehash or FileRecord.of(path, expected.sha256) != expected:
                _compare(path, expected.sha256)
        return len(record.files)
    sums = read_sums(folder)
    for name, digest in sums.items():
        _compare(_present(folder, name), digest)
    return len(sums)


def read_sums(folder: Path) -> dict[str, str]:
    """File name -> sha256 of a folder's SHA256SUMS; empty if there is none. Raises WeightsError."""
    path = folder / SUMS
    if not path.exists():
        return {}
    sums = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise WeightsError(f"{path}: line {line!r} is not 'sha256  name'; restore the file")
        sums[name] = digest
    return sums


def write_sums(folder: Path) -> None:
    """Record every file of a checkpoint folder in its SHA256SUMS."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    (folder / SUMS).write_text("".join(f"{sha256(folder / n)}  {n}\n" for n in names), encoding="utf-8")


def _present(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise WeightsError(f"{folder / name}: file is missing though it was recorded; pull the checkpoint again")
    return folder / name


def _compare(path: Path, expected: str) -> None:
    found = sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path}: sha256 is {found[:12]}..., recorded was {expected[:12]}...; "
            "the file has changed or is damaged, pull or restore the checkpoint"
        )
