"""Which backend takes how many times as long as which, and where no ratio is honest."""

from collections.abc import Sequence

from . import statistics
from .report import BackendReport, Ratio

FLOOR_DTYPE = "uint8"  # the identity backend's, which computes nothing


def ratios(backends: Sequence[BackendReport]) -> list[Ratio]:
    """Compare the first backend with each other one.

    Another precision is refused, a wrong picture too, and the floor is no rival.
    """
    made = []
    for second in backends[1:]:
        first = backends[0]
        dtypes = [b.describe.get("dtype", "") for b in (first, second)]
        if all(dtypes) and dtypes.count(FLOOR_DTYPE) == 1:
            continue
        if dtypes[0] != dtypes[1] and all(dtypes):
            refused = (
                f"{first.label} computes in {dtypes[0]}, {second.label} in {dtypes[1]}; give both "
                "the same --dtype"
            )
            made.append(Ratio(first.label, second.label, None, refused))
            continue
        if wrong := next((b for b in (first, second) if b.wrong), None):
            refused = f"the picture of {wrong.label} failed: {wrong.wrong}"
            made.append(Ratio(first.label, second.label, None, refused))
            continue
        common = [  # rounds that both finished
            (a.frame_ms, b.frame_ms)
            for a, b in zip(first.rounds, second.rounds, strict=False)
            if a.frame_ms and b.frame_ms
        ]
        found = statistics.ratio([a for a, _ in common], [b for _, b in common])
        made.append(
            Ratio(
                first.label, second.label, found, "" if found else "fewer than two rounds in common"
            )
        )
    return made
