"""What a fault is, what right is, and what came of it; and the list of kinds.

A kind is a function that draws its faults from a seeded generator. A fault's id is its kind and
number; the same seed gives the same faults.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

Attempt = Callable[..., None]  # takes the `Place` where it happens
Case = tuple[str, Attempt]  # what is done in words, and how
Kind = Callable[[Random], Iterator[Case]]

FINE, ERROR, USAGE, LOST = 0, 1, 2, 3  # exit codes
LIMIT_S = 40.0  # a command that takes longer hangs
MOST_MB = 1000  # resident, of a command on a tiny checkpoint


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: an id such as 'pickles-07', its kind, what is done, and how."""

    id: str
    kind: str
    what: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Right:
    """What a command may do about a fault.

    codes: exit codes. says: a text that its error line holds, such as the file's name. whole:
    outputs; one that is there at the end is whole, and after success each of them is there. kept:
    files that nothing may change. leaves: it may leave its partial files. silent: nobody can read
    what it says. seconds, mb: limits.
    """

    codes: tuple[int, ...] = (ERROR,)
    says: str = ""
    whole: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    leaves: bool = False
    silent: bool = False
    seconds: float = LIMIT_S
    mb: float = MOST_MB


@dataclass(frozen=True, slots=True)
class Ran:
    """What one command or call did. code: None where it hung. sent: signals that it was sent."""

    code: int | None
    out: str
    err: str
    seconds: float
    peak_mb: float = 0.0
    sent: tuple[int, ...] = ()
    left_running: bool = False

    @property
    def last_line(self) -> str:
        """The last line that was said, of errors before others."""
        lines = [line for line in (*self.out.splitlines(), *self.err.splitlines()) if line.strip()]
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or [""])[-1].strip()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a fault. code: of its last command. wrong: why it was not survived."""

    id: str
    kind: str
    what: str
    code: int | None
    line: str
    seconds: float
    wrong: tuple[str, ...]

    @property
    def survived(self) -> bool:
        return not self.wrong


KINDS: dict[str, Kind] = {}


def kind(name: str) -> Callable[[Kind], Kind]:
    """Put a kind of faults into the list."""

    def add(cases: Kind) -> Kind:
        assert name not in KINDS, name
        KINDS[name] = cases
        return cases

    return add


def faults(seed: int) -> list[Fault]:
    """Draw every fault of every kind, in the order of the list."""
    found = []
    for name, cases in KINDS.items():
        slug = re.sub(r"\W+", "-", name.lower()).strip("-")
        for number, (what, attempt) in enumerate(cases(Random(f"{seed} {name}")), 1):
            found.append(Fault(f"{slug}-{number:02}", name, what, attempt))
    return found
