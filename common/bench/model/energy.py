"""Energy of frames: what readings of a counter tell, and what they must not be taken for.

A counter that stands still tells nothing: its channel is not available, and never 0 J. Counters are
published in batches, so power is taken between two moments at which a counter moved.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

CHANNELS = ("CPU", "GPU", "Neural Engine", "DRAM")
LEAST_WINDOW_S = 10.0
LEAST_UPDATES = 3
MOST_WATTS = 20_000.0  # of one channel
MOST_STILL = 0.5  # of a window, without an update


@dataclass(slots=True)
class EnergyChannel:
    """One channel's energy for a frame, in joules; None where `reason` says why.

    source, how: the sensor, and what its figures hold. watts: mean while frames were rendered.
    idle_watts: just before, without frames. joules: of a frame. net_joules: with idle subtracted.
    """

    channel: str
    source: str
    how: str
    watts: float | None = None
    idle_watts: float | None = None
    joules: float | None = None
    net_joules: float | None = None
    reason: str = ""


@dataclass(slots=True)
class Energy:
    """Energy of one entrant's frames.

    seconds, frames: of the window in which frames were rendered without a pause. idle_s: of the one
    before it.
    """

    seconds: float
    frames: int
    idle_s: float
    channels: list[EnergyChannel]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a sensor said. joules: by channel. lost: why it said nothing, or ''."""

    at_ns: int
    joules: Mapping[str, float]
    lost: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, and the readings of one sensor about then."""

    began_ns: int
    ended_ns: int
    readings: Sequence[Reading]

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.began_ns) / 1e9


def channel_of(
    channel: str, source: str, how: str, idle: Window, busy: Window, frames: int
) -> EnergyChannel:
    """Return what a channel tells of a frame. idle, busy: without frames and with them."""
    found = EnergyChannel(channel, source, how)
    found.watts, found.reason = mean_watts(busy, channel)
    if found.watts is None:
        return found
    found.joules = found.watts * busy.seconds / frames
    found.idle_watts, why = mean_watts(idle, channel)
    if found.idle_watts is None:
        found.reason = f"idle: {why}"
    elif found.watts < found.idle_watts:
        found.reason = "drew no more than while idle"
    else:
        found.net_joules = (found.watts - found.idle_watts) * busy.seconds / frames
    return found


def mean_watts(window: Window, channel: str) -> tuple[float | None, str]:
    """Return the mean power of a channel between its first and its last update in a window.

    None, and the reason, for readings that are no measurement.
    """
    points: list[tuple[float, float]] = []
    for reading in window.readings:
        if not window.began_ns <= reading.at_ns <= window.ended_ns:
            continue
        at_s = (reading.at_ns - window.began_ns) / 1e9
        if reading.lost or channel not in reading.joules:
            return None, f"lost after {at_s:.1f} s: {reading.lost or 'it tells none any more'}"
        points.append((at_s, reading.joules[channel]))
    why = _no_counter(points) or _stalled(points, window.seconds)
    if why:
        return None, why
    moved = _updates(points)
    (first_s, first), (last_s, last) = moved[0], moved[-1]
    return (last - first) / (last_s - first_s), ""


def _no_counter(points: Sequence[tuple[float, float]]) -> str:
    """Say why these are no readings of a counter of joules, or ''."""
    for _, joules in points:
        if not math.isfinite(joules) or joules < 0:
            return f"it reads {joules:.6g} J, which is no energy"
    for (before_s, before), (at_s, joules) in pairwise(points):
        if joules < before:
            return f"it ran backwards, from {before:.6g} to {joules:.6g} J"
        if joules - before > MOST_WATTS * (at_s - before_s):
            return (
                f"it rose by {joules - before:.6g} J within {at_s - before_s:.2g} s, more than any "
                "device draws"
            )
    return ""


def _stalled(points: Sequence[tuple[float, float]], seconds: float) -> str:
    """Say for how long the counter stood still, if for too long; otherwise ''."""
    if len(points) < 2:
        return f"it was read {len(points)} times in {seconds:.1f} s: too few"
    moved = _updates(points)
    if not moved and not points[0][1]:
        return f"it reads 0 throughout {seconds:.1f} s"
    if not moved:
        return f"stalled: it stood still throughout {seconds:.1f} s"
    times = [0.0, *(at_s for at_s, _ in moved), seconds]
    still = max(after - before for before, after in pairwise(times))
    if still > MOST_STILL * seconds:
        return f"stalled: it stood still for {still:.1f} of {seconds:.1f} s"
    if len(moved) < LEAST_UPDATES:
        return f"it moved {len(moved)} times in {seconds:.1f} s: too few for a power"
    return ""


def _updates(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the readings at which the counter had moved since the one before."""
    pairs = pairwise(points)
    return [after for before, after in pairs if after[1] != before[1]]
