"""On what terms a backend was timed: frames in flight, and frames computed at once.

More of either renders more frames a second, each of them later: two backends are rivals on equal
terms only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

IN_FLIGHT, BATCH = "in flight", "batch"  # facts of `describe`
NOT_TOLD = "terms not told"


@dataclass(frozen=True, slots=True)
class Terms:
    """in_flight: frames handed over and not yet collected. batch: most frames computed at once."""

    in_flight: int
    batch: int

    def __str__(self) -> str:
        """The terms in words."""
        batches = f", batches of {self.batch}" if self.batch > 1 else ""
        return f"{self.in_flight} in flight{batches}"


def terms_of(describe: Mapping[str, str]) -> Terms | None:
    """Read the terms from what a backend says of itself; None in reports that do not tell."""
    in_flight, batch = (describe.get(name, "") for name in (IN_FLIGHT, BATCH))
    if not in_flight.isdecimal():
        return None
    return Terms(int(in_flight), int(batch) if batch.isdecimal() else 1)


def unlike_terms(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[str, str]:
    """Return the terms of two backends in words where they differ or are not told, else blanks."""
    terms = terms_of(first), terms_of(second)
    if terms[0] == terms[1] and None not in terms:
        return "", ""
    one, other = (NOT_TOLD if each is None else str(each) for each in terms)
    return one, other
