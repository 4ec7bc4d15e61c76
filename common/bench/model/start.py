"""A start: from the request for a process to its first picture, part by part."""

from collections.abc import Sequence
from dataclasses import dataclass, field

COLD, KEPT = "cold", "kept"
STEADY = "steady"


@dataclass(slots=True)
class Start:
    """One start of one backend in a process of its own.

    kind: 'cold', with all caches emptied that can be, or 'kept', straight after it. phases_ms: in
    their order; together they are `whole_ms`. A phase that cannot be told apart is in its
    neighbour's, and in its name. steady_ms: of a frame, afterwards. resident: share of the weights'
    files in the page cache just before, or None. compiled_files: in the moved cache afterwards, or
    None where it was not moved. error: how it failed; then there are no times.
    """

    kind: str
    phases_ms: dict[str, float] = field(default_factory=dict)
    whole_ms: float = 0.0
    steady_ms: float = 0.0
    resident: float | None = None
    compiled_files: int | None = None
    error: str = ""


@dataclass(slots=True)
class Starts:
    """The starts of one entrant, and what was emptied before a cold one, in words."""

    page_cache: str
    compile_cache: str
    starts: list[Start] = field(default_factory=list)

    def of(self, kind: str) -> list[Start]:
        """Return the starts of a kind that succeeded."""
        return [start for start in self.starts if start.kind == kind and not start.error]


def middle(starts: Sequence[Start]) -> Start:
    """Return the start with the median time, so that its phases are of one start."""
    return sorted(starts, key=lambda start: start.whole_ms)[(len(starts) - 1) // 2]
