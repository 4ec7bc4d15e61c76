"""The cache of Core ML programs, and what Core ML itself keeps of them."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..common.backend import program_cache
from ..common.backend.program_cache import (
    PARTIAL,
    RECORD,
    UNREADABLE,
    Findings,
    ProgramCache,
    Record,
    disk_message,
    read_record,
    size_bytes,
)
from ..common.checkpoint.find import Checkpoint
from ..common.files import best_effort, written_whole
from ..common.system import macos_build
from . import system_cache

__all__ = ["PARTIAL", "RECORD", "UNREADABLE", "Findings", "Record", "disk_message", "size_bytes"]

BUILDER_VERSION = 4  # increment when the same weights give another program
KEPT = "loaded, and in macOS's cache"
PROGRAMS = ProgramCache("coreml", ".mlpackage")


@dataclass(frozen=True, slots=True)
class Built:
    """A folder of the cache. news: the rebuild reason, or '' if it was cached."""

    folder: Path
    news: str = ""

    def package(self, stage: str) -> Path:
        return self.folder / f"{stage}.mlpackage"

    def compiled(self, stage: str) -> Path:
        """Return the path of Core ML's compiled form, kept for later starts."""
        return self.folder / f"{stage}.mlmodelc"

    def was_loaded(self, stage: str, units: str, function: str | None) -> bool:
        """Tell whether this Python on this build of macOS has loaded the program before.

        The first load is slow. Core ML keeps its preparation by system build and executable, and
        macOS may remove it.
        """
        try:
            noted = self._mark(stage, units, function).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return False
        return noted != KEPT or system_cache.holds(macos_build())

    def mark_loaded(self, stage: str, units: str, function: str | None) -> None:
        """Note a load for `was_loaded`, if the folder can be written to."""
        kept = KEPT if system_cache.holds(macos_build()) else "loaded"
        with best_effort(), written_whole(self._mark(stage, units, function)) as partial:
            partial.write_text(kept, encoding="utf-8")

    def _mark(self, stage: str, units: str, function: str | None) -> Path:
        loader = f"{macos_build()} {sys.executable}"
        named = hashlib.sha256(loader.encode()).hexdigest()[:8]
        return self.folder / ".".join(filter(None, (stage, function, units, named, "loaded")))

    @property
    def record(self) -> Record:
        return read_record(self.folder)


@dataclass(frozen=True, slots=True)
class Gate:
    """The check of built programs, see `program_cache.Gate`."""

    keys: list[str]
    check: Callable[[Built], dict[str, float]]


def cache_folder() -> Path:
    """Return the folder of the built programs."""
    return PROGRAMS.folder


def key(checkpoint: Checkpoint, variant: dict[str, str], library: str) -> str:
    """Hash every input of a build to 16 hex digits. library: version of coremltools."""
    return program_cache.key(checkpoint, variant, f"{BUILDER_VERSION} {library}")


def find_or_build(
    name: str,
    variant: dict[str, str],
    cache_key: str,
    build: Callable[[Built], Findings],
    gate: Gate | None = None,
    force: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> Built:
    """Return the cached programs, or build, check and cache them; see `ProgramCache`."""
    checks = None
    if gate is not None:
        judge = gate.check  # mypy does not narrow a parameter inside a function
        checks = program_cache.Gate(gate.keys, lambda folder: judge(Built(folder)))
    found = PROGRAMS.find_or_build(
        name, variant, cache_key, lambda partial: build(Built(partial)), checks, force, waiting
    )
    return Built(*found)


find_damage = PROGRAMS.find_damage
list_built = PROGRAMS.listed
