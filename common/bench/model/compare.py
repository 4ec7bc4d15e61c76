"""Two reports side by side: what changed, and whether they may be compared at all."""

import math
from dataclasses import dataclass

from ...errors import UsageError
from . import statistics
from .report import BackendReport, Report
from .statistics import Interval
from .terms import unlike_terms


@dataclass(frozen=True, slots=True)
class Change:
    """One backend in both reports.

    ratio: its time in the second report over that in the first. terms: see `pairs.Ratio`.
    """

    label: str
    first_ms: float
    second_ms: float
    ratio: Interval | None
    terms: tuple[str, str] = ("", "")

    @property
    def name(self) -> str:
        """The label, with the terms of both reports where these differ."""
        first, second = self.terms
        return self.label if first == second else f"{self.label} ({first}; then {second})"

    @property
    def verdict(self) -> str:
        """In words; no change is claimed that the intervals do not bear out."""
        if self.ratio is None or not math.isfinite(self.ratio.low + self.ratio.high):
            return "too few rounds to say"
        if self.ratio.contains(1):
            return "no difference shown"
        return "faster" if self.ratio.high < 1 else "slower"


def compare(first: Report, second: Report, across_machines: bool = False) -> list[Change]:
    """Compare every backend that both reports have.

    Raises UsageError for runs of other work or another machine.

    Different commits, versions and environments are what one compares; another model, size, seed
    or precision is other work. across_machines: allow different machines; rounds were not paired
    then either.
    """
    _refuse_other_work(first, second)
    if not across_machines:
        _refuse_other_machine(first, second)
    others = {backend.label: backend for backend in second.backends}
    changes = []
    for backend in first.backends:
        other = others.get(backend.label)
        if other is None or not backend.frames or not other.frames or backend.wrong or other.wrong:
            continue
        _refuse_other_precision(backend, other)
        before, after = (
            statistics.summary(backend.frames).median,
            statistics.summary(other.frames).median,
        )
        changes.append(
            Change(
                backend.label,
                before,
                after,
                statistics.unpaired_ratio(other.frames, backend.frames),
                unlike_terms(backend.describe, other.describe),
            )
        )
    if not changes:
        names = [", ".join(b.label for b in r.backends) or "none" for r in (first, second)]
        raise UsageError(
            f"the reports have no measured backend in common ({names[0]}; {names[1]}): measure the "
            "same ones"
        )
    return changes


def cut_short(first: Report, second: Report) -> list[str]:
    """Return a line for each run that is not whole: its figures are of fewer rounds or passes.

    And one for each backend whose picture failed, which is not compared.
    """
    ends = {"running": "was killed, or runs still", "finished": "had failures"}
    wrong = [
        f"{b.label} is left out: its picture failed in the {which} run ({b.wrong})"
        for which, report in (("first", first), ("second", second))
        for b in report.backends
        if b.wrong
    ]
    return wrong + [
        f"the {which} run {ends.get(report.ended, f'was {report.ended}')}: its figures are of "
        "what was measured until then"
        for which, report in (("first", first), ("second", second))
        if not report.complete
    ]


def _refuse_other_work(first: Report, second: Report) -> None:
    for what in ("model", "size", "seed", "prompt", "weights"):
        one, other = getattr(first.work, what), getattr(second.work, what)
        if one != other:
            raise UsageError(
                f"these runs are not of the same work: {what} is {one} in the first and {other} in "
                "the second; measure both alike"
            )


def _refuse_other_machine(first: Report, second: Report) -> None:
    for what in ("system", "chip", "accelerator", "cores"):
        one, other = getattr(first.machine, what), getattr(second.machine, what)
        if one != other:
            raise UsageError(
                f"these runs are of different machines: {what} is {one!r} and {other!r}; add "
                "--across-machines if that is what you want to compare"
            )


def _refuse_other_precision(one: BackendReport, other: BackendReport) -> None:
    first, second = one.describe.get("dtype", ""), other.describe.get("dtype", "")
    if first != second:
        raise UsageError(
            f"{one.label} computed in {first} in the first run and in {second} in the second; "
            "measure both alike"
        )
    if one.settings != other.settings or one.isolated != other.isolated:
        raise UsageError(
            f"{one.label} was set otherwise: {one.settings} and {other.settings}; measure both "
            "alike"
        )
