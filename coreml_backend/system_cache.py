"""Core ML's own cache of the programs that it has prepared; it belongs to macOS.

It lies by executable and build of macOS under ~/Library/Caches (EnviousWispr#879). Nothing but an
update clears it; one user found 274 GB (coremltools#2549).
"""

import os
from contextlib import suppress
from pathlib import Path

from ..common.files import home_folder

NAME = "com.apple.e5rt.e5bundlecache"


def sizes() -> dict[Path, int]:
    """Return the bytes in the cache of every program of this user, the largest first."""
    home = home_folder() / "Library" / "Caches"
    found = [folder for pattern in (f"*/{NAME}", NAME) for folder in home.glob(pattern)]
    measured = {folder: _size_bytes(folder) for folder in found}
    return dict(sorted(measured.items(), key=lambda item: -item[1]))


def _size_bytes(folder: Path) -> int:
    """Return the bytes in a folder, as far as it can be read."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total


def holds(build: str) -> bool:
    """Tell whether there is a cache for a build of macOS, as '24F74'."""
    home = home_folder() / "Library" / "Caches"
    return any(home.glob(f"*/{NAME}/{build}")) or (home / NAME / build).exists()
