"""Which backend takes how many times as long as which, and where no ratio is honest."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from . import statistics
from .pairs import Ratio
from .report import BackendReport, Report
from .terms import terms_of, unlike_terms

FLOOR_DTYPE = "uint8"  # the identity backend's, which computes nothing


def ratios(backends: Sequence[BackendReport]) -> list[Ratio]:
    """Compare the first backend with each other one, and all different ones on equal terms.

    Another precision is refused, a wrong picture too, and the floor is no rival. A ratio on unlike
    terms names both.
    """
    return [made for pair in _pairs(backends) if (made := _ratio(*pair)) is not None]


def named(report: Report) -> list[Ratio]:
    """Return a report's ratios with the terms of both, also where it was written without them."""
    of = {backend.label: backend.describe for backend in report.backends}
    return [
        replace(each, terms=unlike_terms(of.get(each.first, {}), of.get(each.second, {})))
        for each in report.ratios
    ]


def _pairs(backends: Sequence[BackendReport]) -> Iterator[tuple[BackendReport, BackendReport]]:
    for number, first in enumerate(backends):
        for second in backends[number + 1 :]:
            terms = terms_of(first.describe), terms_of(second.describe)
            rivals = first.location != second.location and None not in terms
            if number == 0 or (rivals and terms[0] == terms[1]):
                yield first, second


def _ratio(first: BackendReport, second: BackendReport) -> Ratio | None:
    """Return the ratio of a pair, or why there is none; None where nobody would ask for it."""
    dtypes = [b.describe.get("dtype", "") for b in (first, second)]
    if all(dtypes) and dtypes.count(FLOOR_DTYPE) == 1:
        return None
    if dtypes[0] != dtypes[1] and all(dtypes):
        refused = (
            f"{first.label} computes in {dtypes[0]}, {second.label} in {dtypes[1]}; give both "
            "the same --dtype"
        )
        return Ratio(first.label, second.label, None, refused)
    if wrong := next((b for b in (first, second) if b.wrong), None):
        refused = f"the picture of {wrong.label} failed: {wrong.wrong}"
        return Ratio(first.label, second.label, None, refused)
    common = [  # rounds that both finished
        (a.frame_ms, b.frame_ms)
        for a, b in zip(first.rounds, second.rounds, strict=False)
        if a.frame_ms and b.frame_ms
    ]
    found = statistics.ratio([a for a, _ in common], [b for _, b in common])
    refused = "" if found else "fewer than two rounds in common"
    terms = unlike_terms(first.describe, second.describe)
    return Ratio(first.label, second.label, found, refused, terms)
