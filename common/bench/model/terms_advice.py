"""A warning where rivals ran on unlike terms only: their ratio says little of either."""

from .ratios import named
from .report import Report
from .terms import NOT_TOLD


def of_terms(report: Report) -> list[str]:
    """Return a line for each two kinds of backends that no ratio compares on equal terms."""
    kinds = {backend.label: backend.location for backend in report.backends}
    unlike: dict[frozenset[str], str] = {}
    alike: set[frozenset[str]] = set()
    for each in named(report):
        pair = frozenset(kinds.get(label, label) for label in (each.first, each.second))
        if each.ratio is None or len(pair) < 2:
            continue
        if not any(each.terms):
            alike.add(pair)
        elif NOT_TOLD not in each.terms:
            unlike.setdefault(pair, " and ".join(each.names))
    return [
        f"{names} ran on unlike terms, so their ratio is one of the terms as well: give both the "
        "same with --depth and --batch"
        for pair, names in unlike.items()
        if pair not in alike
    ]
