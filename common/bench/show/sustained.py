"""What minutes of rendering without a pause did to the frame time, in words."""

from ..model.report import Report


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


def _heat(states: list[str]) -> str:
    known = [state for state in states if state]
    if not known:
        return "thermal state: not available, only macOS tells one"
    return f"thermal state: {known[0]} at first, {known[-1]} at the end"
