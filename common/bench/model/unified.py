"""Unified memory: whose bytes a frame moves, what a process holds, and who takes bandwidth.

The same four answers for every backend: bytes copied per frame and by whom; the footprint beside
the framework's account; what two resident backends cost beyond either; bandwidth stolen, both ways.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median

STATIONS = ("camera", "before", "into the backend", "networks", "out of it", "after")
_COPIED_AT = {
    "camera": ("source",),
    "before": ("bars", "mirror", "resize", "similarity", "to RGB"),
    "into the backend": ("backend in", "to its process"),
    "out of it": ("backend out", "from its process", "previous x0", "to 8 bits"),
}
STATION_OF = {site: station for station, sites in _COPIED_AT.items() for site in sites}


@dataclass(slots=True)
class Account:
    """What the system says of a backend's processes, in bytes; None where it says nothing.

    told_by: the system's sources. processes: how many were asked. resident: in memory, shared pages
    in full. dirty: written, and nobody else's. compressed: compressed or swapped out. wired: never
    paged out. surface: IOSurfaces. metal: Metal's heaps. neural: charged to the Neural Engine's
    ledger. device: of a GPU with memory of its own.
    """

    told_by: str
    processes: int
    resident_bytes: int | None = None
    dirty_bytes: int | None = None
    compressed_bytes: int | None = None
    wired_bytes: int | None = None
    surface_bytes: int | None = None
    metal_bytes: int | None = None
    neural_bytes: int | None = None
    device_bytes: int | None = None


def in_all(accounts: Sequence[Account]) -> Account:
    """Add accounts up; a figure that one of them lacks is lacking."""
    figures = [each.name for each in fields(Account)][2:]
    sums: dict[str, int | None] = {}
    for name in figures:
        values = [getattr(account, name) for account in accounts]
        sums[name] = None if None in values or not values else sum(values)
    told = dict.fromkeys(account.told_by for account in accounts if account.told_by)
    return Account(", ".join(told), sum(each.processes for each in accounts), **sums)


@dataclass(slots=True)
class ContentionPoint:
    """One backend while other processes move memory.

    cached: the control, equally busy within the cache. alone_bytes_per_s: what the processes copied
    just before, without a frame. beside_bytes_per_s: what they copied beside the frames; the
    control's copies in the cache count here, as they do not in `traffic_bytes_per_s`. None in
    reports of earlier commits.
    """

    wanted_share: float
    cached: bool
    traffic_bytes_per_s: float
    frame_ms: list[float]
    alone_bytes_per_s: float | None = None
    beside_bytes_per_s: float | None = None


@dataclass(slots=True)
class Contention:
    """Frame times under traffic. saturation: what the processes move at most, with no frames."""

    processes: int
    saturation_bytes_per_s: float
    points: list[ContentionPoint]


@dataclass(frozen=True, slots=True)
class Stolen:
    """Rates at full traffic, over the rate alone: of frames and of traffic, each with its control.

    None where it was not measured. What lies between a share and its control is owed to memory, and
    not to the cores that the other takes.
    """

    frames: float | None
    frames_control: float | None
    traffic: float | None
    traffic_control: float | None


def stolen(curve: Contention) -> Stolen:
    """Work out who slows whom at full traffic."""

    def at(share: float, cached: bool) -> list[ContentionPoint]:
        return [p for p in curve.points if (p.wanted_share, p.cached) == (share, cached)]

    def frame_ms(points: Sequence[ContentionPoint]) -> float | None:
        times = [time for point in points for time in point.frame_ms]
        return median(times) if times else None

    def kept(points: Sequence[ContentionPoint]) -> float | None:
        shares = [
            point.beside_bytes_per_s / point.alone_bytes_per_s
            for point in points
            if point.alone_bytes_per_s and point.beside_bytes_per_s is not None
        ]
        return median(shares) if shares else None

    alone, full, control = at(0.0, False), at(1.0, False), at(1.0, True)
    base, loaded, busy = frame_ms(alone), frame_ms(full), frame_ms(control)
    return Stolen(
        base / loaded if base and loaded else None,
        base / busy if base and busy else None,
        kept(full),
        kept(control),
    )


def by_station(copies: Mapping[str, float], network_bytes: int | None) -> dict[str, float]:
    """Return a frame's bytes by station, in the frame's order; a site that is unknown is 'after'.

    copies: bytes by copy site. network_bytes: that the networks read and write at least, or None.
    """
    found = dict.fromkeys(STATIONS, 0.0)
    for site, copied in copies.items():
        found[STATION_OF.get(site, "after")] += copied
    if network_bytes is None:
        del found["networks"]
    else:
        found["networks"] = float(network_bytes)
    return found
