"""The cache of Core AI programs, under weights/coreai/.

Apple's runtime accepts a program with a flipped byte and dies by a signal over one that is cut off.
So the record holds the hash of every file, and nothing is opened that does not match it.
"""

from dataclasses import dataclass
from pathlib import Path

from ..common.backend.program_cache import ProgramCache

BUILDER_VERSION = 1  # increment when the same weights give another program
SOURCE, COMPILED = ".aimodel", ".aimodelx"  # the latter is what the package's own runtime opens
PROGRAMS = ProgramCache("coreai", ".aimodel*")


@dataclass(frozen=True, slots=True)
class Built:
    """A folder of the cache. news: the rebuild reason, or '' if it was cached."""

    folder: Path
    news: str = ""

    def source(self, stage: str) -> Path:
        """Return the path of the program, which macOS opens and prepares by itself."""
        return self.folder / f"{stage}{SOURCE}"

    def compiled(self, stage: str) -> Path:
        """Return the path of what the package's own runtime opens."""
        return self.folder / f"{stage}{COMPILED}"

    def mark(self, stage: str, unit: str, system: str) -> Path:
        """Return the file that notes a passed self-check of a unit on a build of macOS."""
        return self.folder / f"{stage}.{unit}.{system}.checked"
