"""Record verified files, so that an unchanged file is not hashed again.

`weights/manifest.json` records the sha256, size and modification time of each file from the hub. A
checkpoint that ships with the code has a `SHA256SUMS` file instead, in the format of
`sha256sum --check`.
"""

import contextlib
import json
import string
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import SdxsWarning, WeightsError, in_a_line, reason
from ..files import is_file, sweep_partials, user_cache, written_whole
from ..locks import locked
from .tensors import sha256, sha256_of_weights

SCHEMA = 1
SUMS = "SHA256SUMS"
MODE = 0o644  # readable by the other users of the machine, regardless of the umask
PATIENCE_S = 2.0  # a manifest is written in milliseconds: a shorter wait is not told
YOUNG_NS = 2_000_000_000  # the coarsest clock of a file system ticks every two seconds


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Hold the hash, size and time of a file at its verification.

    source_sha256: hash of the pickle that the file was imported from, or ''.
    """

    sha256: str
    bytes: int
    mtime_ns: int
    source_sha256: str = ""

    @classmethod
    def of(cls, path: Path, digest: str, source_digest: str = "") -> "FileRecord":
        stat = path.stat()
        return cls(digest, stat.st_size, stat.st_mtime_ns, source_digest)

    def stands_for(self, path: Path) -> bool:
        """Tell whether a file still has the size and time of this record."""
        return self == FileRecord.of(path, self.sha256, self.source_sha256)


@dataclass(frozen=True, slots=True)
class Record:
    """Hold the origin and the files of a verified checkpoint. folder: a `record_key`."""

    folder: str
    repo: str
    revision: str
    files: dict[str, FileRecord]


def record_key(folder: Path, manifest: Path) -> str:
    """Return the name of a folder in a manifest.

    It is relative for a folder beside the manifest, so that both can move together.
    """
    folder, beside = folder.resolve(), manifest.parent.resolve()
    return (folder.relative_to(beside) if folder.is_relative_to(beside) else folder).as_posix()


def read_manifest(path: Path) -> dict[str, Record]:
    """Return the records by folder; empty without a manifest. Raises WeightsError if damaged."""
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        schema = stored["schema"]
        records = [_record(entry) for entry in stored["checkpoints"]] if schema == SCHEMA else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: damaged, or no manifest of sdxs ({reason(error)}); delete it and pull the "
            "checkpoints again, which downloads only missing or wrong files"
        ) from None
    if schema != SCHEMA:
        raise WeightsError(
            f"{path}: schema {schema!r}, expected {SCHEMA}; it is from another version of sdxs, "
            "use that or delete it"
        )
    return {record.folder: record for record in records}


# The conversions make a wrong value of a hand-edited file fail here, not at its use.
def _record(stored: dict[str, dict[str, dict[str, str]]]) -> Record:
    files = {
        str(name): FileRecord(
            str(file["sha256"]),
            int(file["bytes"]),
            int(file["mtime_ns"]),
            str(file.get("source_sha256", "")),
        )
        for name, file in stored["files"].items()
    }
    return Record(str(stored["folder"]), str(stored["repo"]), str(stored["revision"]), files)


def write_record(path: Path, record: Record) -> None:
    """Add or replace one record, atomically."""
    with _changing(path) as records:
        records[record.folder] = record


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[str, Record]]:
    """Yield the records to be changed, and write them; others wait, so none of theirs is lost.

    Raises OSError, and WeightsError for a damaged manifest.
    """

    def waiting() -> None:
        warnings.warn(
            f"another process writes {path}; waiting until it is done", SdxsWarning, stacklevel=2
        )

    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock"), waiting, PATIENCE_S):
        records = read_manifest(path)
        yield records
        stored = {"schema": SCHEMA, "checkpoints": [asdict(r) for r in records.values()]}
        sweep_partials(path.parent, path)
        _write_text(path, json.dumps(stored, indent=1))


def add_files(
    manifest: Path, folder: Path, repo: str, revision: str, digests: dict[str, str]
) -> None:
    """Add verified files to a folder's record; files of another revision are dropped."""
    key = record_key(folder, manifest)
    verified = {name: FileRecord.of(folder / name, digest) for name, digest in digests.items()}
    with _changing(manifest) as records:
        earlier = records.get(key)
        same = earlier and (earlier.repo, earlier.revision) == (repo, revision)
        files = earlier.files if earlier and same else {}
        records[key] = Record(key, repo, revision, files | verified)


def add_imported(manifest: Path, folder: Path, name: str, digest: str, source_digest: str) -> None:
    """Add a file imported from a pickle to its checkpoint's record."""
    key = record_key(folder, manifest)
    made = FileRecord.of(folder / name, digest, source_digest)
    with _changing(manifest) as records:
        earlier = records.get(key) or Record(key, "imported", "", {})
        records[key] = replace(earlier, files=earlier.files | {name: made})


def remembered_sha256(path: Path) -> str:
    """Return the sha256 of a weights file; hash a file only if its size or time has changed.

    Of an index it is the hash over the index and its shards.

    `hashes.json` in the user's cache stores the hashes. A file is hashed again if the cache cannot
    be written, or if the file is younger than YOUNG_NS: its time might not show another change.
    """
    return sha256_of_weights(path, _remembered)


def _remembered(path: Path) -> str:
    memory, name, now = user_cache() / "hashes.json", str(path.resolve()), FileRecord.of(path, "")
    try:
        known: dict[str, dict[str, object]] = dict(
            json.loads(memory.read_text(encoding="utf-8")).items()
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        known = {}
    entry = known.get(name)
    if isinstance(entry, dict) and entry == asdict(replace(now, sha256=str(entry.get("sha256")))):
        return str(entry["sha256"])
    found = sha256(path)
    if time.time_ns() - now.mtime_ns > YOUNG_NS:
        present = {file: entry for file, entry in known.items() if is_file(Path(file))}
        content = json.dumps(present | {name: asdict(replace(now, sha256=found))}, indent=1)
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            _write_text(memory, content)
    return found


def verify_hashes(folder: Path, manifest: Path, rehash: bool = False) -> int:
    """Compare a checkpoint's files with their recorded hashes; return the number of files.

    Files with the recorded size and time count as verified unless `rehash`. Returns 0 for a folder
    with neither a record nor a SHA256SUMS file. Raises WeightsError.
    """
    record = read_manifest(manifest).get(record_key(folder, manifest))
    if record is None or not record.files:
        sums = read_sums(folder)
        for name, digest in sums.items():
            _compare(_present(folder, name), digest)
        return len(sums)
    now = {}
    for name, expected in record.files.items():
        path = _present(folder, name)
        now[name] = FileRecord.of(path, expected.sha256, expected.source_sha256)
        if rehash or not expected.stands_for(path):
            _compare(path, expected.sha256)
    if now != record.files:
        # sound files with new times; without a new record they are hashed every time
        with contextlib.suppress(OSError):
            _renew(manifest, record, now)
    return len(record.files)


def _renew(manifest: Path, seen: Record, now: dict[str, FileRecord]) -> None:
    """Record new times of verified files, but of none that another process has recorded since."""
    with _changing(manifest) as records:
        if stored := records.get(seen.folder):
            files = {
                name: now[name] if name in now and file == seen.files[name] else file
                for name, file in stored.files.items()
            }
            records[seen.folder] = replace(stored, files=files)


def read_sums(folder: Path) -> dict[str, str]:
    """Read SHA256SUMS: file name -> sha256; empty without the file. Raises WeightsError."""
    path = folder / SUMS
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not readable ({reason(error)}); restore the file") from None
    sums = {}
    for line in lines:
        digest, separator, name = line[:64], line[64:66], line[66:]
        if (
            len(digest) != 64
            or set(digest) - set(string.hexdigits)
            or separator not in ("  ", " *")
            or not name
        ):
            raise WeightsError(
                f"{path}: line {line[:80]!r} is not 'sha256  name'; restore the file"
            )
        sums[name] = digest.lower()
    if not sums:
        raise WeightsError(
            f"{path}: names no file, expected lines 'sha256  name'; restore the file"
        )
    return sums


def write_sums(folder: Path) -> None:
    """Write the hash of every file of a checkpoint folder to its SHA256SUMS."""
    names = sorted(
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.name != SUMS
    )
    _write_text(folder / SUMS, "".join(f"{sha256(folder / n)}  {n}\n" for n in names))


def _write_text(path: Path, text: str) -> None:
    with written_whole(path, MODE) as partial:
        partial.write_text(text, encoding="utf-8")


def _present(folder: Path, name: str) -> Path:
    if not is_file(folder / name):
        raise WeightsError(
            f"{folder / in_a_line(name)}: file is missing though it was recorded; pull the "
            "checkpoint again"
        )
    return folder / name


def _compare(path: Path, expected: str) -> None:
    found = sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path}: sha256 is {found[:12]}..., recorded was {expected[:12]}...; "
            "the file has changed or is damaged, pull or restore the checkpoint"
        )
