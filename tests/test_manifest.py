"""What was verified is remembered, what changed is noticed."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest

from sdxs.common.checkpoint import manifest as manifest_module
from sdxs.common.checkpoint.manifest import (
    SUMS,
    FileRecord,
    Record,
    add_files,
    add_imported,
    read_manifest,
    read_sums,
    record_key,
    remembered_sha256,
    verify_hashes,
    write_record,
    write_sums,
)
from sdxs.common.checkpoint.tensors import sha256
from sdxs.common.errors import WeightsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files in the place of a checkpoint."""
    folder = tmp_path / "weights" / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}", encoding="utf-8")
    (folder / "unet" / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def manifest(folder: Path) -> Path:
    return folder.parent / "manifest.json"


@pytest.fixture
def recorded(folder: Path, manifest: Path) -> Path:
    """The folder's weights, recorded in the manifest."""
    weights = folder / "unet" / "model.safetensors"
    add_files(manifest, folder, "someone/model", "abc", {"unet/model.safetensors": sha256(weights)})
    return weights


@pytest.fixture
def umask() -> Iterator[None]:
    """The customary one, whatever this process was started with."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that the module hashes from now on."""
    paths: list[Path] = []

    def counting(path: Path) -> str:
        paths.append(path)
        return sha256(path)

    monkeypatch.setattr(manifest_module, "sha256", counting)
    return paths


def refusal(folder: Path, manifest: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        verify_hashes(folder, manifest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sums_are_what_sha256sum_reads(folder: Path, manifest: Path) -> None:
    write_sums(folder)
    assert set(read_sums(folder)) == {"unet/config.json", "unet/model.safetensors"}
    assert verify_hashes(folder, manifest) == 2
    tool = shutil.which("sha256sum")
    if tool is None:
        pytest.skip("no sha256sum on this machine")
    subprocess.run([tool, "--check", "--quiet", SUMS], cwd=folder, check=True)


def test_a_changed_byte_under_sums(folder: Path, manifest: Path) -> None:
    write_sums(folder)
    (folder / "unet" / "model.safetensors").write_bytes(b"weightz")
    message = refusal(folder, manifest)
    assert (
        "model.safetensors: sha256 is" in message
        and "the file has changed or is damaged" in message
    )


def test_a_missing_file_under_sums(folder: Path, manifest: Path) -> None:
    write_sums(folder)
    (folder / "unet" / "config.json").unlink()
    assert "config.json: file is missing though it was recorded" in refusal(folder, manifest)


@pytest.mark.parametrize(
    "line",
    ["nonsense", "0" * 63 + "  name", "0" * 64 + " name", "0" * 64 + "  ", "x" * 64 + "  name", ""],
)
def test_a_malformed_line_of_sums(folder: Path, manifest: Path, line: str) -> None:
    (folder / SUMS).write_text(f"{'0' * 64}  unet/config.json\n{line}\n", encoding="utf-8")
    assert f"{SUMS}: line {line!r} is not 'sha256  name'" in refusal(folder, manifest)


def test_sums_that_are_not_text(folder: Path, manifest: Path) -> None:
    (folder / SUMS).write_bytes(b"\xff\xfe")
    assert f"{SUMS}: not readable" in refusal(folder, manifest)


def test_sums_in_binary_mode_and_upper_case(folder: Path, manifest: Path) -> None:
    weights = folder / "unet" / "model.safetensors"
    (folder / SUMS).write_text(
        f"{sha256(weights).upper()} *unet/model.safetensors\n", encoding="utf-8"
    )
    assert verify_hashes(folder, manifest) == 1


def test_a_folder_without_any_record_has_nothing_to_compare(folder: Path, manifest: Path) -> None:
    assert verify_hashes(folder, manifest) == 0


def test_a_file_with_its_recorded_size_and_time_is_trusted(
    folder: Path, manifest: Path, recorded: Path, hashed: list[Path]
) -> None:
    assert verify_hashes(folder, manifest) == 1
    assert hashed == []
    assert verify_hashes(folder, manifest, rehash=True) == 1
    assert hashed == [recorded]


def test_a_touched_file_is_hashed_once_more_and_then_trusted(
    folder: Path, manifest: Path, recorded: Path, hashed: list[Path]
) -> None:
    os.utime(recorded, ns=(1, 1))
    assert verify_hashes(folder, manifest) == 1
    assert verify_hashes(folder, manifest) == 1
    assert hashed == [recorded]


def test_a_touched_file_in_a_read_only_place_is_only_hashed(
    folder: Path,
    manifest: Path,
    recorded: Path,
    hashed: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(manifest_module, "locked", denied)
    os.utime(recorded, ns=(1, 1))
    assert verify_hashes(folder, manifest) == verify_hashes(folder, manifest) == 1
    assert hashed == [recorded, recorded]


def test_a_changed_file_is_noticed_by_its_time(
    folder: Path, manifest: Path, recorded: Path
) -> None:
    recorded.write_bytes(b"weightz")
    os.utime(recorded, ns=(1, 1))
    assert "the file has changed or is damaged" in refusal(folder, manifest)
    assert "the file has changed or is damaged" in refusal(folder, manifest)  # and stays refused


def test_a_change_that_keeps_size_and_time_is_noticed_by_rehash_only(
    folder: Path, manifest: Path, recorded: Path
) -> None:
    stat = recorded.stat()
    recorded.write_bytes(b"weightz")
    os.utime(recorded, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert verify_hashes(folder, manifest) == 1
    with pytest.raises(WeightsError, match="has changed or is damaged"):
        verify_hashes(folder, manifest, rehash=True)


def test_a_recorded_file_that_is_gone(folder: Path, manifest: Path, recorded: Path) -> None:
    recorded.unlink()
    assert "file is missing though it was recorded" in refusal(folder, manifest)


def test_weights_and_manifest_can_move_together(manifest: Path, recorded: Path) -> None:
    assert recorded.is_file()
    moved = manifest.parent.rename(manifest.parent.parent / "elsewhere")
    changed = moved / "model" / "unet" / "model.safetensors"
    changed.write_bytes(b"changed")
    os.utime(changed, ns=(1, 1))  # written within a clock tick of the first, it might keep its time
    assert "has changed" in refusal(moved / "model", moved / manifest.name)


def test_record_keys(tmp_path: Path) -> None:
    assert (
        record_key(tmp_path / "weights" / "model", tmp_path / "weights" / "manifest.json")
        == "model"
    )
    assert record_key(tmp_path / "model", tmp_path / "weights" / "manifest.json") == str(
        tmp_path.resolve() / "model"
    )


def test_records_of_two_folders_stand_side_by_side(manifest: Path, recorded: Path) -> None:
    other = Record("other", "someone/other", "def", {"a": FileRecord("0" * 64, 1, 2)})
    write_record(manifest, other)
    records = read_manifest(manifest)
    assert records["other"] == other and set(records) == {"model", "other"}
    assert records["model"].files["unet/model.safetensors"] == FileRecord.of(
        recorded, sha256(recorded)
    )


def test_another_revision_replaces_the_record(folder: Path, manifest: Path, recorded: Path) -> None:
    add_files(manifest, folder, "someone/model", "abc", {"unet/config.json": "0" * 64})
    assert len(read_manifest(manifest)["model"].files) == 2
    add_files(
        manifest, folder, "someone/model", "def", {"unet/model.safetensors": sha256(recorded)}
    )
    record = read_manifest(manifest)["model"]
    assert record.revision == "def" and set(record.files) == {"unet/model.safetensors"}


def test_other_users_may_read_what_is_recorded(folder: Path, manifest: Path, umask: None) -> None:
    """Bug: a temporary file's own mode, 0600, hid it from the machine's other users."""
    write_sums(folder)
    add_files(manifest, folder, "someone/model", "abc", {"unet/config.json": "0" * 64})
    for path in (folder / SUMS, manifest):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path


def test_no_manifest_is_no_record(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "manifest.json") == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"schema": 1}',
        '{"schema": 1, "checkpoints": [7]}',
        "\xff",
        '{"schema": 1, "checkpoints": [{"folder": "m", "repo": "r", "revision": "v", '
        '"files": []}]}',
        '{"schema": 1, "checkpoints": [{"folder": "m", "repo": "r", "revision": "v", "files": '
        '{"a": {}}}]}',
        '{"schema": 1, "checkpoints": [{"folder": "m", "repo": "r", "revision": "v", "files": '
        '{"a": {"sha256": "0", "bytes": "many", "mtime_ns": 1}}}]}',
        "[" * 100_000,
    ],
    ids=range(12),
)
def test_a_damaged_manifest(folder: Path, manifest: Path, content: str) -> None:
    manifest.write_bytes(content.encode("latin-1"))
    message = refusal(folder, manifest)
    assert (
        f"{manifest}: damaged" in message and "delete it and pull the checkpoints again" in message
    )


def test_a_manifest_of_a_later_version(folder: Path, manifest: Path, recorded: Path) -> None:
    stored = json.loads(manifest.read_text(encoding="utf-8")) | {
        "schema": 2,
        "checkpoints": {"new": "form"},
    }
    manifest.write_text(json.dumps(stored), encoding="utf-8")
    assert "schema 2, expected 1; it is from another version of sdxs" in refusal(folder, manifest)
    with pytest.raises(WeightsError, match="schema 2"):  # and is not overwritten
        add_files(
            manifest, folder, "someone/model", "abc", {"unet/model.safetensors": sha256(recorded)}
        )


def test_a_failing_write_keeps_the_old_manifest(
    folder: Path, manifest: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifest.read_bytes()
    record = replace(read_manifest(manifest)["model"], revision="def")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_record(manifest, record)
    assert recorded.is_file() and manifest.read_bytes() == before
    assert sorted(p.name for p in folder.parent.iterdir()) == ["manifest.json", "model"]


@pytest.fixture
def hiding_umask() -> Iterator[None]:
    """A shell that hides what it makes."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_other_users_may_read_what_was_verified(
    folder: Path, manifest: Path, hiding_umask: None, recorded: Path
) -> None:
    write_sums(folder)
    assert recorded.is_file()
    assert {stat.S_IMODE(p.stat().st_mode) for p in (manifest, folder / SUMS)} == {0o644}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is old enough for its time to tell of a change."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    os.utime(path, ns=(1, 1))
    return path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sdxs" / "hashes.json"


def test_a_hash_is_remembered_until_size_or_time_is_new(
    old: Path, own_cache: Path, hashed: list[Path]
) -> None:
    assert remembered_sha256(old) == remembered_sha256(old) == sha256(old)
    assert hashed == [old]
    os.utime(old, ns=(1, 2))
    assert remembered_sha256(old) == remembered_sha256(old) == sha256(old)
    assert hashed == [old] * 2
    old.write_bytes(b"more weights")
    os.utime(old, ns=(1, 2))
    assert remembered_sha256(old) == sha256(old)
    assert hashed == [old] * 3


def test_a_file_just_written_is_hashed_again(
    old: Path, own_cache: Path, hashed: list[Path]
) -> None:
    os.utime(old)
    assert remembered_sha256(old) == remembered_sha256(old)
    assert hashed == [old] * 2 and not own_cache.exists()


@pytest.mark.parametrize(
    "content", ["{", "7", "[1]", "[[1, 2]]", '{"PATH": 7}', '{"PATH": {}}', "[" * 100_000]
)
def test_a_damaged_memory_of_hashes_is_made_again(
    old: Path, own_cache: Path, content: str, hashed: list[Path]
) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text(content.replace("PATH", str(old)), encoding="utf-8")
    assert remembered_sha256(old) == remembered_sha256(old) == sha256(old)
    assert hashed == [old]


def test_where_no_hash_can_be_kept_it_is_taken_every_time(
    old: Path, own_cache: Path, tmp_path: Path, hashed: list[Path]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert remembered_sha256(old) == remembered_sha256(old) == sha256(old)
    assert hashed == [old] * 2


def test_the_hashes_of_files_that_are_gone_are_forgotten(old: Path, own_cache: Path) -> None:
    other = old.with_name("other")
    other.write_bytes(b"other")
    os.utime(other, ns=(1, 1))
    remembered_sha256(old)
    old.unlink()
    remembered_sha256(other)
    assert list(json.loads(own_cache.read_text())) == [str(other.resolve())]


def test_the_manifest_is_never_seen_half_written(
    folder: Path, manifest: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifest.read_bytes()
    seen: list[bytes] = []
    replace_path = Path.replace

    def watching(self: Path, target: Path) -> Path:
        seen.append(manifest.read_bytes())
        assert json.loads(self.read_text(encoding="utf-8"))["checkpoints"][0]["revision"] == "def"
        return replace_path(self, target)

    monkeypatch.setattr(Path, "replace", watching)
    add_files(
        manifest, folder, "someone/model", "def", {"unet/model.safetensors": sha256(recorded)}
    )
    assert seen == [before]
    assert read_manifest(manifest)["model"].revision == "def"


def test_six_imports_at_once_lose_no_record(
    folder: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"unet/{number}.safetensors" for number in range(6)]
    (folder / "unet").mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    together, read = Barrier(len(names)), manifest_module.read_manifest

    def read_together(path: Path) -> dict[str, manifest_module.Record]:
        with suppress(BrokenBarrierError):  # where they take turns, they do not meet here
            together.wait(0.05)
        return read(path)

    monkeypatch.setattr(manifest_module, "read_manifest", read_together)
    monkeypatch.setattr("sdxs.common.locks.LOCK_LOOK_S", 0.001)
    with ThreadPoolExecutor(len(names)) as all_of_them:
        for name in names:
            all_of_them.submit(add_imported, manifest, folder, name, "a" * 64, "b" * 64)
    assert set(read(manifest)["model"].files) >= set(names)
    assert not list(manifest.parent.glob(".*"))


def test_new_times_do_not_undo_what_another_has_recorded(
    folder: Path, manifest: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`verify` hashes for seconds, between reading the manifest and writing it."""
    other = folder / "unet" / "other.safetensors"
    other.write_bytes(b"other")

    def meanwhile(path: Path) -> str:
        add_imported(manifest, folder, "unet/other.safetensors", "a" * 64, "b" * 64)
        return sha256(path)

    os.utime(recorded, ns=(1, 1))
    monkeypatch.setattr(manifest_module, "sha256", meanwhile)
    assert verify_hashes(folder, manifest) == 1
    files = read_manifest(manifest)["model"].files
    assert files["unet/other.safetensors"].source_sha256 == "b" * 64
    assert files["unet/model.safetensors"].mtime_ns == 1
