"""Pulling from a hub: the real client library against a server on 127.0.0.1 that can misbehave."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

import huggingface_hub
import pytest
from huggingface_hub import constants

from sdxs.common.checkpoint import alone
from sdxs.common.checkpoint import hub as hub_module
from sdxs.common.checkpoint.alone import writing
from sdxs.common.checkpoint.find import Checkpoint, find
from sdxs.common.checkpoint.hub import cached_folder, pull, record_cached
from sdxs.common.checkpoint.manifest import read_manifest
from sdxs.common.checkpoint.partial import move
from sdxs.common.checkpoint.registry import ENTRIES
from sdxs.common.checkpoint.tensors import sha256
from sdxs.common.errors import WeightsError

from .fake_hub import FakeHub, Json, point_client_at, register, serve

UNET = "unet/diffusion_pytorch_model.safetensors"
CHUNK = 1 << 14


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def hub(
    tiny_sdxs: Checkpoint, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    """A hub that holds the tiny checkpoint as `test-model`, and things nobody asked for."""
    assert weights
    fake = FakeHub(register(monkeypatch), tiny_sdxs.folder)
    fake.files |= {"unet/diffusion_pytorch_model.bin": b"\x80pickle", "README.md": b"hello"}
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library's pause before it retries
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    with serve(fake):
        point_client_at(fake.port, tmp_path / "home", monkeypatch)
        yield fake
    huggingface_hub.close_session()


@pytest.fixture
def cache(hub: FakeHub) -> Path:
    """The hub library's own cache, filled by the library itself; returns the snapshot folder."""
    for name in hub.known.files():
        huggingface_hub.hf_hub_download(hub.known.repo, name, revision=hub.known.revision)
    hub.requests.clear()
    return Path(
        constants.HF_HUB_CACHE, "models--someone--test-model", "snapshots", hub.known.revision
    )


def refusal(hub: FakeHub, weights: Path, vae_folder: str = "vae") -> str:
    """The message of a pull that must fail, and must leave nothing under the final name."""
    with pytest.raises(WeightsError) as caught:
        pull(hub.known, weights, vae_folder)
    assert not (weights / hub.known.name).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pull_fetches_the_needed_files_only_and_records_them(hub: FakeHub, weights: Path) -> None:
    folder = pull(hub.known, weights)
    assert folder == weights / "test-model"
    assert hub.downloads() == list(hub.known.files())
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(
        hub.known.files()
    )
    record = read_manifest(weights / "manifest.json")["test-model"]
    assert (record.repo, record.revision) == (hub.known.repo, hub.known.revision)
    assert {name: file.sha256 for name, file in record.files.items()} == {
        name: sha256(folder / name) for name in hub.known.files()
    }
    assert sorted(p.name for p in weights.iterdir()) == ["manifest.json", "test-model"]


def test_find_pulls_once_and_then_needs_no_network(hub: FakeHub) -> None:
    first = find("test-model")
    first.verify()
    assert first.origin == "hub"
    hub.requests.clear()
    second = find("test-model")
    second.verify()
    assert (second.origin, second.folder) == ("weights", first.folder)
    assert hub.requests == []


def test_find_without_download_says_how_to_get_it(hub: FakeHub) -> None:
    with pytest.raises(
        WeightsError, match="not on this machine; run `sdxs weights pull test-model`"
    ):
        find("test-model", download=False)
    assert hub.requests == []


def test_a_broken_connection_is_resumed_within_a_pull(hub: FakeHub, weights: Path) -> None:
    hub.cut[UNET] = 3 * CHUNK + 5
    folder = pull(hub.known, weights)
    assert (folder / UNET).read_bytes() == hub.files[UNET]
    assert ("GET", f"/stored/{UNET}", 3 * CHUNK) in hub.requests


def test_an_interrupted_pull_leaves_nothing_and_resumes_in_the_next(
    hub: FakeHub, weights: Path
) -> None:
    hub.cut[UNET], hub.down_after_cut = 3 * CHUNK + 5, True
    assert "HTTP 503" in refusal(hub, weights)
    done = hub.downloads()[:-1]
    assert (weights / ".partial-test-model" / f"{UNET}.part").stat().st_size == 3 * CHUNK

    hub.refuse_files = 0
    hub.requests.clear()
    folder = pull(hub.known, weights)
    assert (folder / UNET).read_bytes() == hub.files[UNET]
    assert ("GET", f"/stored/{UNET}", 3 * CHUNK) in hub.requests
    assert done and not set(done) & set(hub.downloads()) - {UNET}
    assert not (weights / ".partial-test-model").exists()


def test_a_server_that_cannot_resume_sends_the_whole_file_again(
    hub: FakeHub, weights: Path
) -> None:
    hub.cut[UNET], hub.ignore_range = 3 * CHUNK, True
    assert (pull(hub.known, weights) / UNET).read_bytes() == hub.files[UNET]


def test_ctrl_c_leaves_nothing_under_the_final_name(
    hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_module, "http_get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull(hub.known, weights)
    assert not (weights / "test-model").exists()
    assert not (weights / "manifest.json").exists()


@pytest.mark.parametrize("name", [UNET, "unet/config.json"], ids=["sha256", "git hash"])
def test_a_file_with_a_wrong_hash_is_refused_and_removed(
    hub: FakeHub, weights: Path, name: str
) -> None:
    hub.damaged = {name}
    message = refusal(hub, weights)
    assert f"{name} does not match the hash the hub reports ({hub.hash(name)[:12]}" in message
    assert "pull again" in message
    assert not list((weights / ".partial-test-model").glob(f"{name}*"))
    assert not (weights / "manifest.json").exists()
    hub.damaged = set()
    assert (pull(hub.known, weights) / name).read_bytes() == hub.files[name]


def test_more_bytes_than_the_file_has_are_thrown_away(hub: FakeHub, weights: Path) -> None:
    grown = weights / ".partial-test-model" / f"{UNET}.part"
    grown.parent.mkdir(parents=True)
    grown.write_bytes(bytes(len(hub.files[UNET]) + 1))
    assert (pull(hub.known, weights) / UNET).read_bytes() == hub.files[UNET]


def test_an_answer_without_end_is_left_soon_after_the_announced_size(
    hub: FakeHub, weights: Path
) -> None:
    """An endless answer once wrote 1.76 GB."""
    hub.endless = {UNET}
    message = refusal(hub, weights)
    assert f"more bytes came for {UNET} than the hub announced" in message and "proxy" in message
    assert not list(weights.rglob("*.part"))
    # what the sockets between hold, beside one chunk
    assert hub.sent < len(hub.files[UNET]) + CHUNK + (32 << 20)
    hub.endless = set()
    assert (pull(hub.known, weights) / UNET).read_bytes() == hub.files[UNET]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> "Queue[str]":
    """What is said by those who wait for a lock, in whatever thread."""
    said: Queue[str] = Queue()
    monkeypatch.setattr(alone.warnings, "warn", lambda text, *_, **__: said.put(text))
    return said


def test_a_second_pull_waits_says_so_and_finds_the_work_done(
    hub: FakeHub, weights: Path, waits: "Queue[str]", tiny_sdxs: Checkpoint
) -> None:
    """In 7 of 10 tries one of two said 'complete and verified' of a file twice as long."""
    folder, manifest = weights / "test-model", weights / "manifest.json"
    with ThreadPoolExecutor(1) as other:
        with writing(folder, manifest):
            pulled = other.submit(pull, hub.known, weights)
            assert waits.get(timeout=30).startswith(f"another process writes {folder}; waiting")
            for name in hub.known.files():  # what the first one does meanwhile
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(hub.files[name])
        assert pulled.result(timeout=30) == folder
    assert hub.downloads() == [] and waits.empty()
    assert set(read_manifest(manifest)["test-model"].files) == set(hub.known.files())
    assert sorted(p.name for p in weights.iterdir()) == ["manifest.json", "test-model"]


def test_two_pulls_at_once_download_each_file_once(
    hub: FakeHub, weights: Path, waits: "Queue[str]"
) -> None:
    with ThreadPoolExecutor(2) as both:
        folders = [both.submit(pull, hub.known, weights) for _ in range(2)]
        for folder in folders:
            assert (folder.result(timeout=60) / UNET).read_bytes() == hub.files[UNET]
    assert sorted(hub.downloads()) == sorted(hub.known.files())
    find("test-model").verify()


def test_what_a_killed_pull_has_locked_is_free(hub: FakeHub, weights: Path) -> None:
    weights.mkdir()
    (weights / ".test-model.lock").touch()
    pull(hub.known, weights)
    assert not (weights / ".test-model.lock").exists()


def test_a_file_is_checked_as_it_lies_in_its_place(
    hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved_and_doubled(source: Path, target: Path) -> None:
        move(source, target)
        (target / UNET).write_bytes(hub.files[UNET] * 2)

    monkeypatch.setattr(hub_module, "move", moved_and_doubled)
    with pytest.raises(WeightsError, match=f"{UNET}: is not what was downloaded"):
        pull(hub.known, weights)
    assert not (weights / "manifest.json").exists()


def test_a_sound_checkpoint_in_a_read_only_place_is_sound(
    hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    pull(hub.known, weights)
    monkeypatch.setattr("sdxs.common.checkpoint.manifest.locked", denied)
    monkeypatch.setattr(alone, "locked", denied)
    assert pull(hub.known, weights) == weights / "test-model"
    find("test-model").verify()
    (weights / "test-model" / UNET).unlink()
    with pytest.raises(WeightsError, match="Read-only file system"):
        pull(hub.known, weights)


@pytest.mark.parametrize(
    ("linked", "hard"),
    [*((name, False) for name in ("", "unet", f"{UNET}.part", UNET)), (f"{UNET}.part", True)],
)
def test_a_link_where_a_download_grows_is_not_followed(
    linked: str, hard: bool, hub: FakeHub, weights: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kept").write_bytes(b"mine")
    place = weights / ".partial-test-model" / linked
    place.parent.mkdir(parents=True)
    if hard:
        os.link(mine / "kept", place)
    else:
        place.symlink_to(mine / "kept" if linked.startswith(UNET) else mine)
    message = refusal(hub, weights)
    assert "a link, which is not followed; remove it" in message and str(place) in message
    assert (mine / "kept").read_bytes() == b"mine" and len(list(mine.iterdir())) == 1
    assert hub.downloads() == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(
    hub: FakeHub, weights: Path, tmp_path: Path
) -> None:
    weights.mkdir()
    (weights / ".test-model.lock").symlink_to(tmp_path / "mine")
    assert "symbolic links" in refusal(hub, weights)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("size", "hash"), [(-1, "f" * 64), ("9", "f" * 64), (9, "fff"), (9, 7)])
def test_what_is_no_size_and_hash_is_refused(
    size: object, hash: object, hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = hub.describe

    def strange(name: str) -> Json:
        lfs = {"oid": hash, "size": size, "pointerSize": 130}
        return describe(name) | ({"size": size, "lfs": lfs} if name == UNET else {})  # type: ignore[return-value]

    monkeypatch.setattr(hub, "describe", strange)
    assert "is no size and hash" in refusal(hub, weights)
    assert hub.downloads() == []


def test_a_file_missing_in_the_repository_is_named(hub: FakeHub, weights: Path) -> None:
    del hub.files["tokenizer/merges.txt"]
    assert "someone/test-model at revision 012345678901 has no tokenizer/merges.txt" in refusal(
        hub, weights
    )
    assert hub.downloads() == []


def test_no_network_and_nothing_local_names_the_demo(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_sdxs: Checkpoint
) -> None:
    known = register(monkeypatch)
    gone = FakeHub(known, tiny_sdxs.folder)
    with serve(gone):
        pass
    point_client_at(gone.port, tmp_path / "home", monkeypatch)
    with pytest.raises(WeightsError) as caught:
        find("test-model")
    message = str(caught.value)
    assert (
        "test-model is not complete on this machine and the hub cannot be reached (ConnectError)"
        in message
    )
    assert "`--model demo` needs no network" in message
    assert "\n" not in message
    assert not (weights / "test-model").exists()


def test_offline_mode_is_no_network(
    hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cannot be reached (OfflineModeIsEnabled)" in refusal(hub, weights)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "hf auth login"),
        (403, "hf auth login"),
        (404, "is gone, update sdxs"),
        (500, "try again later"),
    ],
)
def test_a_refusal_says_which_and_what_to_do(
    hub: FakeHub, weights: Path, status: int, remedy: str
) -> None:
    hub.refuse = status
    message = refusal(hub, weights)
    assert f"the hub refused someone/test-model (HTTP {status})" in message
    assert remedy in message and "--model demo" in message


def test_a_refused_file_is_a_refusal_too(hub: FakeHub, weights: Path) -> None:
    hub.refuse_files = 403
    assert "HTTP 403" in refusal(hub, weights)


def test_a_login_page_is_not_taken_for_the_hub(hub: FakeHub, weights: Path) -> None:
    hub.login_page = True
    assert "what answered is not the hub; is there a login page" in refusal(hub, weights)


def test_a_full_disk_is_seen_before_the_download(
    hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    needed = sum(len(hub.files[name]) for name in hub.known.files())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(needed, 1, needed - 1))
    message = refusal(hub, weights)
    assert "GB still to download" in message and "$SDXS_WEIGHTS" in message
    assert hub.downloads() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(needed, 0, needed))
    assert pull(hub.known, weights).is_dir()


def test_a_disk_that_fills_up_is_one_line(
    hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_module, "http_get", full)
    message = refusal(hub, weights)
    assert "No space left on device" in message and "free space or set $SDXS_WEIGHTS" in message


def test_a_damaged_manifest_is_reported_before_the_download(hub: FakeHub, weights: Path) -> None:
    weights.mkdir()
    (weights / "manifest.json").write_text("{", encoding="utf-8")
    assert "manifest.json: damaged" in refusal(hub, weights)
    assert hub.requests == []


def test_the_token_is_not_taken_to_the_storage_host(
    hub: FakeHub, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-of-a-test")
    pull(hub.known, weights)
    asked = [token for path, token in hub.authorizations if "/resolve/" in path]
    stored = [token for path, token in hub.authorizations if "/stored/" in path]
    assert set(asked) == {"Bearer secret-of-a-test"}
    assert stored and set(stored) == {""}


def test_another_vae_is_added_to_an_existing_pull(hub: FakeHub, weights: Path) -> None:
    find("test-model").verify()
    hub.requests.clear()
    large = find("test-model", vae_folder="vae_large")
    large.verify()
    assert hub.downloads() == [
        "vae_large/config.json",
        "vae_large/diffusion_pytorch_model.safetensors",
    ]
    assert (large.folder / "vae" / "config.json").is_file()
    recorded = read_manifest(weights / "manifest.json")["test-model"].files
    assert set(recorded) == {*hub.known.files("vae"), *hub.known.files("vae_large")}


def test_a_vae_that_does_not_exist_there_is_named(hub: FakeHub, weights: Path) -> None:
    assert "has no vae_huge/config.json" in refusal(hub, weights, "vae_huge")


def test_what_another_vae_left_half_done_does_not_come_along(hub: FakeHub, weights: Path) -> None:
    large = "vae_large/diffusion_pytorch_model.safetensors"
    hub.cut[large], hub.down_after_cut = 2 * CHUNK, True
    refusal(hub, weights, "vae_large")
    hub.refuse_files = 0
    folder = pull(hub.known, weights)
    assert not list(folder.rglob("*.part"))


def test_pull_repairs_a_damaged_file_and_keeps_the_others(hub: FakeHub, weights: Path) -> None:
    folder = pull(hub.known, weights)
    (folder / UNET).write_bytes(b"damaged")
    (folder / "tokenizer" / "vocab.json").unlink()
    hub.requests.clear()
    pull(hub.known, weights)
    assert sorted(hub.downloads()) == ["tokenizer/vocab.json", UNET]
    assert (folder / UNET).read_bytes() == hub.files[UNET]
    find("test-model").verify()


@pytest.mark.parametrize("name", ["tiny-sd", "small-sd", "sdxs-512-dreamshaper-sketch"])
def test_a_checkpoint_published_as_a_pickle_is_refused(
    hub: FakeHub, weights: Path, name: str
) -> None:
    with pytest.raises(WeightsError, match=f"{name} cannot be pulled: published as a pickle only"):
        find(name)
    with pytest.raises(WeightsError, match=f"{name} cannot be pulled: published as a pickle only"):
        pull(ENTRIES[name], weights)
    assert hub.requests == [] and not weights.exists()


def test_the_demo_is_not_pulled(hub: FakeHub, weights: Path) -> None:
    with pytest.raises(WeightsError, match="demo comes with the code"):
        pull(ENTRIES["demo"], weights)
    assert hub.requests == []


def test_the_hub_cache_is_preferred_over_the_network(
    hub: FakeHub, cache: Path, weights: Path
) -> None:
    checkpoint = find("test-model")
    checkpoint.verify()
    assert (checkpoint.origin, checkpoint.folder) == ("hub cache", cache)
    assert hub.requests == [] and not (weights / "test-model").exists()
    (record,) = read_manifest(weights / "manifest.json").values()
    assert record.files[UNET].sha256 == hub.hash(UNET)
    assert set(record.files) == set(hub.known.files())


def test_the_weights_folder_is_preferred_over_the_hub_cache(
    hub: FakeHub, cache: Path, weights: Path
) -> None:
    pull(hub.known, weights)
    assert cache.is_dir() and find("test-model").origin == "weights"


def test_the_hub_cache_is_hashed_once(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def counting(path: Path) -> str:
        hashed.append(path)
        return sha256(path)

    monkeypatch.setattr(hub_module, "sha256", counting)
    monkeypatch.setattr("sdxs.common.checkpoint.manifest.sha256", counting)
    checkpoint = find("test-model")
    assert checkpoint.folder == cache
    checkpoint.verify()
    assert len(hashed) == len(hub.known.files())
    hashed.clear()
    find("test-model").verify()
    assert hashed == []


@pytest.mark.parametrize("name", [UNET, "tokenizer/merges.txt"], ids=["sha256", "git hash"])
def test_a_damaged_hub_cache_is_refused(
    hub: FakeHub, cache: Path, weights: Path, name: str
) -> None:
    blob = (cache / name).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(WeightsError, match=f"the hub cache's copy of {name} is damaged"):
        record_cached(hub.known, cache, weights / "manifest.json")
    with pytest.raises(WeightsError, match="is damaged"):
        find("test-model").verify()
    assert not (weights / "manifest.json").exists()


def test_an_incomplete_hub_cache_is_passed_over(hub: FakeHub, cache: Path) -> None:
    assert cached_folder(hub.known) == cache
    assert cached_folder(hub.known, "vae_large") is None
    (cache / "tokenizer" / "vocab.json").unlink()
    assert cached_folder(hub.known) is None


def test_a_hub_cache_without_links_is_passed_over(hub: FakeHub, cache: Path) -> None:
    blob = (cache / UNET).resolve()
    (cache / UNET).unlink()
    shutil.copyfile(blob, cache / UNET)
    assert cached_folder(hub.known) is None


def test_the_client_library_is_imported_only_when_needed() -> None:
    code = """
import json, sys
from sdxs.common.checkpoint.find import find
find("demo").verify()
print(json.dumps([m for m in sys.modules if m.startswith(("huggingface_hub", "httpx"))]))
"""
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(output) == []
