"""Pull a known checkpoint from the model hub, verified against the hub's own file hashes.

The only file that imports huggingface_hub. Downloads resume, land in a temporary folder and
are renamed once every file is verified, so an interrupted pull leaves no half checkpoint.
"""

import shutil
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile

from .errors import WeightsError
from .manifest import FileRecord, Record, read_manifest, write_record
from .registry import Entry
from .tensors import git_blob_sha1, sha256


def cached_folder(known: Entry, vae_folder: str = "vae") -> Path | None:
    """Return the hub cache's snapshot of a checkpoint if every needed file is in it."""
    folder = None
    for name in known.files(vae_folder):
        cached = try_to_load_from_cache(known.repo, name, revision=known.revision)
        if not isinstance(cached, str):
            return None
        folder = folder or Path(cached.removesuffix(name))
    return folder


def pull(known: Entry, weights: Path, vae_folder: str = "vae") -> Path:
    """Download the files a session needs into `weights/<name>` and return that folder.

    Shows the hub library's progress bars. Every file is compared with the sha256 (large files)
    or git hash (small ones) that the hub reports, then recorded in manifest.json. Raises
    WeightsError; what was already downloaded is kept and resumed next time.
    """
    if known.pickle_only:
        raise WeightsError(f"{known.name} cannot be pulled: {known.pickle_only}")
    folder, partial = weights / known.name, weights / f".partial-{known.name}"
    try:
        remote = _remote_files(known, vae_folder)
        partial.mkdir(parents=True, exist_ok=True)
        _check_space(partial, sum(file.size for file in remote))
        digests = {file.path: _fetch(known, file, partial) for file in remote}
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        _merge(partial, folder)
    except (HTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise WeightsError(_unreachable(known, error)) from None
    except OSError as error:
        raise WeightsError(
            f"{known.name}: writing to {partial} failed ({error}); free space or set $SDXS_WEIGHTS, then pull again"
        ) from None
    manifest, key = weights / "manifest.json", str(folder.resolve())
    earlier = read_manifest(manifest).get(key)  # a pull with another VAE folder stays beside this one
    files = {name: FileRecord.of(folder / name, digest) for name, digest in digests.items()}
    write_record(manifest, Record(key, known.repo, known.revision, (earlier.files if earlier else {}) | files))
    return folder


def _remote_files(known: Entry, vae_folder: str) -> list[RepoFile]:
    names = known.files(vae_folder)
    found = HfApi().get_paths_info(known.repo, list(names), revision=known.revision)
    files = {file.path: file for file in found if isinstance(file, RepoFile)}
    missing = [name for name in names if name not in files]
    if missing:
        raise WeightsError(
            f"{known.name}: {known.repo} at revision {known.revision[:12]} has no {missing[0]}; "
            "the repository has changed or this VAE does not exist there"
        )
    return [files[name] for name in names]


def _check_space(folder: Path, needed: int) -> None:
    present = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    free = shutil.disk_usage(folder).free
    if needed - present > free:
        raise WeightsError(
            f"{folder}: {(needed - present) / 1e9:.1f} GB still to download, {free / 1e9:.1f} GB free; "
            "free space or set $SDXS_WEIGHTS to another disk"
        )


def _fetch(known: Entry, file: RepoFile, partial: Path) -> str:
    """Download one file, compare it with the hub's hash, return its sha256."""
    path = Path(hf_hub_download(known.repo, file.path, revision=known.revision, local_dir=partial))
    digest = sha256(path)
    expected = file.lfs.sha256 if file.lfs else file.blob_id
    if (digest if file.lfs else git_blob_sha1(path)) != expected:
        path.unlink()
        raise WeightsError(
            f"{known.name}: {file.path} does not match the hash the hub reports ({expected[:12]}...); "
            "the download was damaged and has been removed, pull again"
        )
    return digest


def _merge(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            target = folder / path.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(partial)


def _unreachable(known: Entry, error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return (
            f"{known.name}: the hub refused {known.repo} (HTTP {response.status_code}); check the network's rules and, "
            "for gated models, `hf auth login`; `--model demo` needs no network"
        )
    return (
        f"{known.name} is not on this machine and the hub cannot be reached ({type(error).__name__}); "
        "connect to the network and run the same command again, or use `--model demo`, which needs none"
    )
