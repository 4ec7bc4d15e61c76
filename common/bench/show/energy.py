"""The energy of a frame, by channel: rows for the terminal and the page."""

from ..model.energy import EnergyChannel
from ..model.report import BackendReport, Report
from .numbers import three

TITLE = "energy of a frame"
NOT_AVAILABLE = "not available"
HEADS = (
    "backend",
    "channel",
    "J a frame",
    "idle subtracted",
    "W",
    "W idle",
    "frames/J",
    "source",
)


def energy_rows(report: Report) -> list[list[str]]:
    """Return a row under `HEADS` for every channel that was read."""
    return [
        _row(backend, channel)
        for backend in report.backends
        if backend.energy
        for channel in backend.energy.channels
        if channel.joules is not None
    ]


def energy_title(report: Report) -> str:
    """Name the windows, and what idle means; '' where no energy was asked for."""
    asked = [backend.energy for backend in report.backends if backend.energy]
    if not asked:
        return ""
    measured = [energy for energy in asked if energy.frames]
    if not measured:
        return TITLE
    shortest = min(min(energy.seconds, energy.idle_s) for energy in measured)
    idle = "no backend loaded" if report.settings.fresh else "all backends loaded"
    return f"{TITLE}, over {shortest:.0f} s and more; idle: {idle}"


def energy_notes(report: Report) -> list[str]:
    """Say which channels were not read and why, each reason once; and what a source holds."""
    lacking: dict[tuple[str, str], list[str]] = {}
    holding: dict[str, None] = {}
    for backend in report.backends:
        for channel in backend.energy.channels if backend.energy else ():
            if channel.joules is None:
                lacking.setdefault((channel.channel, channel.reason), []).append(backend.label)
            elif channel.how:
                holding[f"energy by {channel.source}: {channel.how}"] = None
    number = sum(1 for backend in report.backends if backend.energy)
    lines = list(holding)
    for (channel_name, reason), labels in lacking.items():
        whose = "" if len(labels) == number else f" of {', '.join(labels)}"
        lines.append(f"energy, {channel_name}{whose}: {NOT_AVAILABLE}: {reason}")
    return lines


def _row(backend: BackendReport, channel: EnergyChannel) -> list[str]:
    assert channel.joules is not None and channel.watts is not None
    net = three(channel.net_joules) if channel.net_joules is not None else channel.reason
    idle = three(channel.idle_watts) if channel.idle_watts is not None else NOT_AVAILABLE
    return [
        backend.label,
        channel.channel,
        three(channel.joules),
        net,
        three(channel.watts),
        idle,
        three(1 / channel.joules),
        channel.source,
    ]
