"""Find the weights of one part of a checkpoint in its folder, under any name that diffusers writes.

A part has one safetensors file; or one of a variant, as `model.fp16.safetensors`; or an index,
`model.safetensors.index.json`, that names the shards beside it. An index stands for its shards.
"""

import json
from pathlib import Path

from ..errors import WeightsError

SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
MOST_INDEX_BYTES = 32 << 20
_INDEX = f"{SUFFIX}.index"
_POINTER = b"version https://git-lfs.github.com/spec/"
_MOST_POINTER_BYTES = 1024
_LONGEST_NAME = 255  # of a file, on every system
_NAMED = 6  # files of a folder that a message names


def weights_file(folder: Path, stem: str) -> Path:
    """Return the weights of a part: `STEM.safetensors`, or the only variant or index there is.

    The path is the plain name if there is none or more than one; `read_header` says so.
    """
    plain = folder / f"{stem}{SUFFIX}"
    if plain.exists() or plain.is_symlink():
        return plain
    for found in (_indexes(folder, stem), _variants(folder, stem)):
        if len(found) == 1:
            return found[0]
    return plain


def is_index(path: Path) -> bool:
    """Tell whether a path names an index of shards."""
    return path.suffix == ".json" and _INDEX in path.name


def files_of(path: Path) -> list[Path]:
    """Return the safetensors files of a weights file: itself, or the shards of an index.

    Raises WeightsError for a damaged index, or one that names files outside of its folder.
    """
    if not is_index(path):
        return [path]
    try:
        if path.stat().st_size > MOST_INDEX_BYTES:
            raise ValueError(f"more than {MOST_INDEX_BYTES:,} bytes")
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError("its weight_map names no files")
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: damaged, or no index of shards ({error!s:.80}){pointer_note(path)}; copy it "
            "again with its shards"
        ) from None
    for name in names:
        if Path(name).name != name or not name.endswith(SUFFIX) or len(name) > _LONGEST_NAME:
            raise WeightsError(
                f"{path}: names {name[:80]!r}, expected {SUFFIX} files beside it; copy it again "
                "with its shards"
            )
    return [path.with_name(name) for name in sorted(names)]


def absent(path: Path) -> str:
    """Say why a weights file is not there: what is in its folder, and what would help."""
    if path.is_symlink():
        return (
            f"{path}: is a link to {path.readlink()}, which is not there; copy the file itself, or "
            "mount what it leads to"
        )
    stem = path.name.partition(".safetensors")[0]
    several = _indexes(path.parent, stem) or _variants(path.parent, stem)
    if len(several) > 1:
        return (
            f"{path}: file is missing, and the folder holds {_listed(several)}; rename the one to "
            f"use to {path.name}, or keep only that one"
        )
    pickles = _holding(path.parent, PICKLE_SUFFIXES)
    found = ""
    if pickles:
        found = f"; the folder holds {pickles[0].name}, a pickle, which is never loaded"
    elif others := _holding(path.parent, ("",)):
        found = f"; the folder holds {_listed(others)}"
    return f"{path}: file is missing{found}; pull the checkpoint again or name another with --model"


def pointer_note(path: Path) -> str:
    """Return ' (...)' that says so if a file is a Git LFS pointer, else ''."""
    return f" (it is a Git LFS pointer{_stands_for(path)})" if is_pointer(path) else ""


def is_pointer(path: Path) -> bool:
    """Tell whether a file is the text that Git LFS leaves in a large file's place."""
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER and (
                path.stat().st_size <= _MOST_POINTER_BYTES
            )
    except OSError:
        return False


def refuse_pointer(path: Path) -> None:
    """Raise WeightsError for a Git LFS pointer in the place of a file."""
    if is_pointer(path):
        raise WeightsError(
            f"{path}: is a Git LFS pointer, not the file that it stands for{_stands_for(path)}; "
            "run `git lfs pull` in its repository, or download the file itself"
        )


def holds(folder: Path) -> str:
    """Name what is in a folder, for a message: 'a/, b.json and 3 more', or 'nothing'."""
    try:
        found = sorted(
            f"{each.name}/" if each.is_dir() else each.name
            for each in folder.iterdir()
            if not each.name.startswith(".")
        )
    except OSError as error:
        return f"nothing that can be read ({error.strerror})"
    return _joined(found)


def _stands_for(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    sizes = [line.removeprefix("size ") for line in lines if line.startswith("size ")]
    return f" ({int(sizes[0]):,} bytes)" if sizes and sizes[0].isdecimal() else ""


def _indexes(folder: Path, stem: str) -> list[Path]:
    """Return the indexes of a part: `STEM.safetensors.index.json` alone, or those of variants."""
    plain = folder / f"{stem}{_INDEX}.json"
    if plain.exists():
        return [plain]
    names = _holding(folder, (".json",))
    return [each for each in names if each.name.startswith(f"{stem}{_INDEX}.")]


def _variants(folder: Path, stem: str) -> list[Path]:
    """Return the files `STEM.VARIANT.safetensors`."""
    return [
        each
        for each in _holding(folder, (SUFFIX,))
        if each.name.startswith(f"{stem}.") and each.name.count(".") == stem.count(".") + 2
    ]


def _holding(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder with one of these suffixes, sorted; '' stands for any."""
    try:
        return sorted(
            each
            for each in folder.iterdir()
            if each.name.endswith(suffixes) and not each.name.startswith(".") and each.is_file()
        )
    except OSError:
        return []


def _listed(paths: list[Path]) -> str:
    return _joined([path.name for path in paths])


def _joined(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = len(names) - _NAMED
    shown = names[:_NAMED] + ([f"{more} more"] if more > 0 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
