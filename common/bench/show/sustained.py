"""Heat, in words: what minutes without a pause did to the frame time, and the thermal state."""

from itertools import groupby

from ..model.report import Report

NO_HEAT = "not available, only macOS tells one"


def sustained_lines(report: Report) -> list[str]:
    """Return a line for each backend that was measured so."""
    lines = []
    for backend in report.backends:
        found = backend.sustained
        if found is None or backend.wrong:
            continue
        change, minutes = found.change, found.seconds[-1] / 60 if found.seconds else 0.0
        told = (
            f"the last minute takes {change.value:.3f} times as long as the first (95 % interval "
            f"{change.low:.3f} to {change.high:.3f})"
            if change
            else "too short to compare its first minute with its last"
        )
        lines.append(
            f"{backend.label}, {minutes:.1f} minutes without a pause: {told}; {_heat(found.heat)}"
        )
    return lines


def heat_by_round(report: Report) -> str:
    """Return what macOS called its thermal state, round by round, or why nothing is known."""
    states = {r.number + 1: r.heat for b in report.backends for r in b.rounds if r.heat}
    if not states:
        return NO_HEAT
    told = []
    for state, group in groupby(sorted(states), key=states.__getitem__):
        first, *others = group
        told.append(f"{state} in round {first}" + (f" to {others[-1]}" if others else ""))
    return ", ".join(told)


def _heat(states: list[str]) -> str:
    known = [state for state in states if state]
    if not known:
        return f"thermal state: {NO_HEAT}"
    return f"thermal state: {known[0]} at first, {known[-1]} at the end"
