"""Pull a known checkpoint from the model hub and verify it against the hub's hashes.

Only this file imports huggingface_hub, which is slow to import; callers therefore import this
module inside functions. Files download to `weights/.partial-<name>/` and are compared with the
hub's hashes. Only a complete set moves to `weights/<name>/`, so an interrupted pull leaves no
incomplete checkpoint.
"""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache

# hf_hub_download 2.4 deletes an unfinished file (huggingface_hub#4228), so a broken 1.3 GB
# download would restart; its own http_get resumes. Use hf_hub_download once it resumes across runs.
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]  # public, exported lazily

# The library has changed its HTTP client twice; this is the base error of each of them.
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]  # isort: skip

from ..errors import WeightsError, in_a_line
from .alone import writing
from .manifest import add_files, read_manifest, record_key
from .partial import (
    Announced,
    RemoteFile,
    TooLong,
    check_space,
    growing_file,
    move,
    refuse_links,
    remove_strays,
)
from .registry import ENTRIES, Entry
from .tensors import git_blob_sha1, sha256
from .whereabouts import checkpoints_in

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def cached_folder(known: Entry, vae_folder: str = "vae") -> Path | None:
    """Return the hub cache's snapshot of a checkpoint if it is complete, else None.

    A cache without links has no recorded hashes and is skipped.
    """
    folder = None
    for name in known.files(vae_folder):
        cached = try_to_load_from_cache(known.repo, name, revision=known.revision)
        if not isinstance(cached, str) or not _HASH.fullmatch(Path(cached).resolve().name):
            return None
        folder = folder or Path(cached.removesuffix(name))
    return folder


def obtain(known: Entry, weights: Path, vae_folder: str, download: bool) -> Path:
    """Pull a known checkpoint; an error names what the hub's cache holds of it instead."""
    other = other_snapshot(known, vae_folder)
    if not download:
        raise WeightsError(
            f"{known.name} is not on this machine{other and f', but {other}'}; run `sdxs weights "
            f"pull {known.name}` or use `--model demo`"
        )
    try:
        return pull(known, weights, vae_folder)
    except WeightsError as error:
        if not other:
            raise
        raise WeightsError(f"{error}; {other}") from None


def other_snapshot(known: Entry, vae_folder: str = "vae") -> str:
    """Say which other snapshot of a checkpoint the hub cache holds and how to use it, or ''."""
    folder = Path(constants.HF_HUB_CACHE, f"models--{known.repo.replace('/', '--')}")
    found = [
        each
        for each in checkpoints_in(folder)
        if (each / vae_folder / "config.json").is_file() and (each / "text_encoder").is_dir()
    ]
    if not known.repo or not found:
        return ""
    pinned = found[0].name == known.revision
    what = "other files of its revision" if pinned else f"its revision {found[0].name[:12]}"
    return f"the hub cache holds {what}, which `--model {found[0]}` renders with, unverified"


def record_cached(known: Entry, folder: Path, manifest: Path, vae_folder: str = "vae") -> None:
    """Compare a snapshot's files once with the hashes in their cache names; record them.

    Raises WeightsError for a damaged file.
    """
    earlier = read_manifest(manifest).get(record_key(folder, manifest))
    digests = {}
    for name in known.files(vae_folder):
        if earlier is None or name not in earlier.files:
            blob = (folder / name).resolve()
            digests[name] = _digest(blob, blob.name)
            if not digests[name]:
                raise WeightsError(
                    f"{blob}: the hub cache's copy of {name} is damaged (its hash differs from its "
                    f"name); delete it and run `sdxs weights pull {known.name}`"
                )
    if digests:
        # without a record the files are hashed at every start
        with contextlib.suppress(OSError):
            add_files(manifest, folder, known.repo, known.revision, digests)


def pull(known: Entry, weights: Path, vae_folder: str = "vae") -> Path:
    """Download the files of a session into `weights/<name>` and return that folder.

    Sound local files are kept, so a pull also repairs and extends a checkpoint. The hub library
    shows progress bars. Every file is compared with the hub's hash and recorded in manifest.json.
    Raises WeightsError and keeps the partial download; the next pull resumes it.
    """
    if known.pickle_only:
        raise WeightsError(f"{known.name} cannot be pulled: {known.pickle_only}")
    if not known.repo:
        raise WeightsError(
            f"{known.name} comes with the code and cannot be pulled; reinstall sdxs to restore it"
        )
    folder, manifest = weights / known.name, weights / "manifest.json"
    read_manifest(manifest)  # reports a damaged manifest before the download
    try:
        remote = _remote_files(known, vae_folder)
        digests = {file.path: _digest(folder / file.path, file.hash) for file in remote}
        if all(digests.values()):
            with contextlib.suppress(OSError):  # a read-only checkpoint is as sound
                add_files(manifest, folder, known.repo, known.revision, digests)
            return folder
        with writing(folder, manifest):
            for file in remote:  # another process may have been before us
                digests[file.path] = digests[file.path] or _digest(folder / file.path, file.hash)
            if not all(digests.values()):
                _complete(known, folder, [file for file in remote if not digests[file.path]])
                digests = {file.path: _placed(folder, file) for file in remote}
            add_files(manifest, folder, known.repo, known.revision, digests)
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise WeightsError(_unreachable(known, error)) from None
    except OSError as error:
        raise WeightsError(
            f"{known.name}: writing to {weights} failed ({in_a_line(error)}); free space or set "
            "$SDXS_WEIGHTS, then pull again"
        ) from None
    return folder


def _complete(known: Entry, folder: Path, wanted: Sequence[RemoteFile]) -> None:
    """Download files and move them into place, under the lock of `writing`."""
    partial = folder.with_name(f".partial-{known.name}")
    refuse_links(partial)
    partial.mkdir(parents=True, exist_ok=True)
    check_space(partial, wanted)
    for file in wanted:
        _fetch(known, file, partial)
    remove_strays(partial, [file.path for file in wanted])
    move(partial, folder)


def _placed(folder: Path, file: RemoteFile) -> str:
    """Return the sha256 of a file as it lies in its place. Raises WeightsError."""
    if digest := _digest(folder / file.path, file.hash):
        return digest
    raise WeightsError(
        f"{folder / file.path}: is not what was downloaded (its hash differs from the hub's); does "
        "another program write there, or is the disk failing? Pull again"
    )


def reachable(timeout_s: float = 3.0) -> str:
    """Return the obstacle between this machine and the hub, or ''; sends one HEAD request."""
    known = next(
        known
        for known in ENTRIES.values()
        if known.repo and known.revision and not known.pickle_only
    )
    url = hf_hub_url(known.repo, known.files()[0], revision=known.revision)
    try:
        response = get_session().head(
            url, timeout=timeout_s, headers=build_hf_headers(library_name="sdxs")
        )
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set, so the hub is not used"
    except (HTTPError, OSError) as error:
        return f"the hub cannot be reached ({type(error).__name__})"
    if response.status_code >= 400:
        return f"the hub refused {known.repo} (HTTP {response.status_code})"
    if "X-Repo-Commit" not in response.headers:
        return "what answered is not the hub; is there a login page or a proxy between?"
    return ""


def _remote_files(known: Entry, vae_folder: str) -> list[RemoteFile]:
    names = known.files(vae_folder)
    try:
        found = HfApi().get_paths_info(known.repo, list(names), revision=known.revision)
    except (ValueError, KeyError, TypeError):  # the network's login page instead of json
        raise WeightsError(
            f"{known.name}: what answered is not the hub; is there a login page or a proxy "
            "between? `--model demo` needs no network"
        ) from None
    files = {file.path: file for file in found if isinstance(file, RepoFile)}
    for name in names:
        if name not in files:
            raise WeightsError(
                f"{known.name}: {known.repo} at revision {known.revision[:12]} has no {name}; "
                "this VAE does not exist there, or the repository has changed"
            )
    remote = [
        RemoteFile(n, files[n].size, lfs.sha256 if (lfs := files[n].lfs) else files[n].blob_id)
        for n in names
    ]
    for file in remote:
        if not (isinstance(file.size, int) and file.size >= 0 and _HASH.fullmatch(str(file.hash))):
            raise WeightsError(
                f"{known.name}: the hub says {in_a_line(file)}, which is no size and hash; is "
                "there a proxy between? Pull again"
            )
    return remote


def _digest(path: Path, expected: str) -> str:
    """Return the sha256 of a file if it matches the hub's hash `expected`, else ''."""
    if not path.is_file():
        return ""
    digest = sha256(path)
    return digest if (digest if len(expected) == 64 else git_blob_sha1(path)) == expected else ""


def _fetch(known: Entry, file: RemoteFile, partial: Path) -> str:
    """Download one file into `partial`, resuming an earlier attempt; return its sha256."""
    path, growing = partial / file.path, growing_file(partial, file)
    if digest := _digest(path, file.hash):
        return digest
    path.parent.mkdir(parents=True, exist_ok=True)
    with Announced(growing, file.size) as target:
        if target.tell() > file.size:
            target.seek(0)
            target.truncate()
        try:
            http_get(
                hf_hub_url(known.repo, file.path, revision=known.revision),
                target,
                resume_size=target.tell(),
                expected_size=file.size,
                displayed_filename=file.path,
                headers=build_hf_headers(
                    library_name="sdxs", headers={"Accept-Encoding": "identity"}
                ),
            )
        except TooLong:
            growing.unlink()
            raise WeightsError(
                f"{known.name}: more bytes came for {file.path} than the hub announced "
                f"({file.size:,}), and the download has been removed; is there a proxy between? "
                "Pull again"
            ) from None
        except OSError as error:
            if error.errno is not None or isinstance(error, HTTPError):
                raise
            # the library's size check has no errno; the hash below decides
    digest = _digest(growing, file.hash)
    if not digest:
        growing.unlink()
        raise WeightsError(
            f"{known.name}: {file.path} does not match the hash the hub reports "
            f"({file.hash[:12]}...); the damaged download has been removed, pull again"
        )
    growing.replace(path)
    return digest


def _unreachable(known: Entry, error: Exception) -> str:
    response = getattr(error, "response", None)
    demo = "`--model demo` needs no network"
    if response is None:
        return (
            f"{known.name} is not complete on this machine and the hub cannot be reached "
            f"({type(error).__name__}); connect to the network and run the same command again, "
            f"it resumes; {demo}"
        )
    refusal = f"{known.name}: the hub refused {known.repo} (HTTP {response.status_code})"
    if response.status_code in (401, 403):
        return (
            f"{refusal}; accept its terms on its page and run `hf auth login`, or ask the "
            f"network's administrator; {demo}"
        )
    if response.status_code == 404:
        return (
            f"{refusal}; the repository or its revision {known.revision[:12]} is gone, update "
            f"sdxs; {demo}"
        )
    return f"{refusal}; try again later, the download resumes; {demo}"
