"""Read what macOS prints of a process's memory: `vmmap -summary` and `footprint`.

Written after the tools' documented formats and published outputs of macOS 13 to 15; it has not run
on a Mac yet. `mac-check` asks it there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

SURFACES = ("iosurface",)
METAL = ("ioaccelerator", "owned unmapped (graphics)", "owned physical footprint (unmapped)")
_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?([BKMGT])?B?")
_VMMAP_ROW = re.compile(r"(?P<name>\S.*?)\s{2,}(?P<sizes>\d[\d.]*[BKMGT]?(?:\s+\d[\d.]*[BKMGT]?)+)")
_FOOTPRINT_ROW = re.compile(
    r"\s*(?P<dirty>\d+ [BKMGT]?B)\s+(?P<clean>\d+ [BKMGT]?B)\s+(?P<reclaimable>\d+ [BKMGT]?B)"
    r"\s+(?P<regions>\d+)\s+(?P<name>\S.*)"
)


@dataclass(frozen=True, slots=True)
class Regions:
    """Bytes of a process by kind of region; compressed is None if the tool does not tell."""

    dirty_bytes: int
    compressed_bytes: int | None
    surface_bytes: int
    metal_bytes: int


Reader = Callable[[str], Regions | None]


def bytes_of(text: str) -> int:
    """Return the bytes of a size such as '640.5M', '128K', '640 MB' or '0 B'.

    Raises ValueError.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is no size")
    return round(float(found[1]) * _UNITS[found[2] or "B"])


def from_vmmap(text: str) -> Regions | None:
    """Read `vmmap -summary`; None if its table is not as expected.

    Columns: virtual, resident, dirty, swapped, volatile, nonvolatile, empty, and the count.
    Graphics count by what is resident or swapped: their pages may be wired, which is not dirty.
    """
    head = re.search(r"^\s*VIRTUAL\s+RESIDENT\s+DIRTY\s+SWAPPED\b.*$", text, re.MULTILINE)
    if not head:
        return None
    sums = {"surface": 0, "metal": 0}
    for line in text[head.end() :].splitlines():
        row = _VMMAP_ROW.match(line)
        sizes = row["sizes"].split() if row else []
        if row is None or len(sizes) < 5:
            continue
        _, resident, dirty, swapped = (bytes_of(size) for size in sizes[:4])
        name = row["name"].lower()
        if name == "total":
            return Regions(dirty, swapped, sums["surface"], sums["metal"])
        if kind := _kind(name):
            sums[kind] += resident + swapped
    return None


def from_footprint(text: str) -> Regions | None:
    """Read `footprint`; None if its table is not as expected.

    Dirty there includes what is compressed or swapped, so that is not told apart.
    """
    sums = {"surface": 0, "metal": 0}
    for line in text.splitlines():
        row = _FOOTPRINT_ROW.match(line)
        if row is None:
            continue
        name, dirty = row["name"].strip().lower(), bytes_of(row["dirty"])
        if name == "total":
            return Regions(dirty, None, sums["surface"], sums["metal"])
        if kind := _kind(name):
            sums[kind] += dirty
    return None


def _kind(name: str) -> str:
    """Return 'surface' or 'metal' for a kind of region, or ''."""
    if name.startswith(SURFACES):
        return "surface"
    return "metal" if name.startswith(METAL) else ""
