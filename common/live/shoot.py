"""Many files to render one after the other: what is read, and the file that each becomes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SdxsError, UsageError
from ..files import expanded, is_folder
from ..io.films.formats import suffix_for
from ..io.kinds import split_kind
from ..io.sources.place import STANDARD_INPUT, is_url, without_password
from ..picture.still import frame_count

NOT_MEDIA = (".txt", ".md", ".json", ".csv", ".xml", ".pdf", ".zip", ".py", ".aae", ".xmp", ".thm")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Take:
    """One file and what it becomes."""

    source: Path
    out: Path


def is_shoot(sources: Sequence[str]) -> bool:
    """Tell whether `--source` names more than one file: it is repeated, or a folder."""
    return len(sources) > 1 or any(each.strip() and is_folder(expanded(each)) for each in sources)


def takes_of(sources: Sequence[str], out: Path, codec: str) -> tuple[list[Take], list[Path]]:
    """Return every file to render, in the order of their names, and the files passed over.

    A folder stands for the files in it, without hidden ones. codec: of films, '' for H.264. Raises
    UsageError for a folder without files, and if an output is there already.
    """
    other = next((each for each in sources if not _is_path(each)), None)
    if other is not None:
        raise UsageError(
            f"--source {without_password(other)}: several sources are files or folders; give this "
            "one a command of its own"
        )
    found: list[Path] = []
    passed: list[Path] = []
    for each in sources:
        path = expanded(each)
        if not is_folder(expanded(each)):
            found.append(path)
            continue
        inside = sorted(
            (file for file in path.iterdir() if file.is_file() and file.name[0] != "."), key=_order
        )
        media = [file for file in inside if file.suffix.lower() not in NOT_MEDIA]
        if not media:
            raise UsageError(f"--source {path}: holds no pictures or films; name another folder")
        found += media
        passed += [file for file in inside if file not in media]
    takes = _named(found, out, suffix_for(codec))
    there = [take.out for take in takes if take.out.exists()]
    if there:
        raise UsageError(
            f"--out {out}: {len(there)} of the files are there already, first {there[0].name}; "
            "name a new folder"
        )
    return takes, passed


def _named(sources: Sequence[Path], out: Path, film_suffix: str) -> list[Take]:
    """Name outputs as their sources; two that would be one file are numbered."""
    taken: set[str] = set()
    takes = []
    for source in sources:
        suffix = ".png" if _is_still(source) else film_suffix
        name, number = f"{source.stem}{suffix}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{source.stem}-{number}{suffix}"
        taken.add(name.casefold())
        takes.append(Take(source, out / name))
    return takes


def _is_still(path: Path) -> bool:
    try:
        return frame_count(path) == 1
    except SdxsError:  # said when its turn comes
        return False


def _is_path(source: str) -> bool:
    special = source.isdecimal() or source in ("synthetic", STANDARD_INPUT)
    return not (special or is_url(source) or split_kind(source))


def _order(path: Path) -> list[tuple[bool, int, str]]:
    """Sort frame-9 before frame-10."""
    parts = _DIGITS.split(path.name.casefold())
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
