"""Unified memory in a report: the four answers as a table, and where a frame's bytes go as a plot.

The plot is a flow, a row for each backend: camera, loop, backend, networks and back. The height of
a bar grows with the logarithm of its bytes, since the networks move a hundred times what is copied.
"""

import math
from dataclasses import dataclass

from ..model.report import BackendReport, Report
from ..model.unified import STATION_OF, STATIONS, Account, by_station, stolen
from .figure import Figure, rows_plot
from .svg import Axis, Plot, colour

NOT_TOLD = "not told"
TITLE = "unified memory: the same questions to every backend (MB, or % of the rate alone)"
_ACCOUNT = (
    ("resident", "resident_bytes"),
    ("dirty", "dirty_bytes"),
    ("compressed or swapped", "compressed_bytes"),
    ("wired or locked", "wired_bytes"),
    ("IOSurfaces", "surface_bytes"),
    ("Metal's heaps", "metal_bytes"),
    ("Neural Engine's ledger", "neural_bytes"),
    ("a GPU's own memory", "device_bytes"),
)
HALF, LEAST = 0.28, 0.05  # of a bar's height in rows: of the most bytes, and of none
LOWERED = 0.08  # rows, to make room for the row's name
FLOW = colour(5)  # grey


@dataclass(frozen=True, slots=True)
class Stations(Axis):
    """The stations of a frame, which have names and no numbers."""

    def ticks(self) -> list[float]:
        """No ticks: the bars bear their names."""
        return []


def unified_heads(report: Report) -> list[str]:
    """Return the heads of the table: the question, then every backend that has an answer."""
    return ["question", *(backend.label for backend in _answering(report))]


def unified_rows(report: Report) -> list[list[str]]:
    """Return the four answers of every backend; rows that nobody answers are left out."""
    shown = _answering(report)
    rows = [*_copied(shown), *_held(shown), _beyond(report, shown), *_stolen(shown)]
    return [row for row in rows if any(row[1:])]


def flow_figure(report: Report) -> Figure | None:
    """Plot where a frame's bytes go, a row for each backend."""
    shown = [b for b in report.backends if b.copies]
    if not shown:
        return None
    flows = {b.label: by_station(b.copies, _network_bytes(b)) for b in shown}
    most = max(size for flow in flows.values() for size in flow.values())
    x = Stations("from the camera to the display or the file", -0.6, len(STATIONS) - 0.4)
    plot = rows_plot([b.label for b in shown], "bytes", x)
    for row, backend in enumerate(shown[::-1]):
        _draw(plot, row - LOWERED, backend, flows[backend.label], most)
    caption = (
        "MB of one frame: copied by the host, of a 1280 x 720 camera into a video file, and read "
        "and written by the networks, weights and activations each once, which is the least. Bars "
        "grow with the logarithm."
    )
    keys = tuple((name, colour(n)) for n, name in enumerate(STATIONS))
    return Figure("Where a frame's bytes go", caption, plot, keys)


def _draw(
    plot: Plot, row: float, backend: BackendReport, flow: dict[str, float], most: float
) -> None:
    edges: list[tuple[float, float]] = []
    for name, size in flow.items():
        station = STATIONS.index(name)
        half = _half(size, most)
        if edges:
            before, other = edges[-1]
            corners = [(before + 0.3, row - other), (before + 0.3, row + other)]
            corners += [(station - 0.3, row + half), (station - 0.3, row - half)]
            plot.area(corners, FLOW)
        edges.append((station, half))
        told = f"{backend.label}, {name}: {size / 1e6:.3f} MB"
        sites = [f"{s} {b / 1e6:.3f}" for s, b in backend.copies.items() if _at(s) == name]
        told += f" ({', '.join(sites)})" if sites else ""
        plot.bar(station - 0.3, station + 0.3, row, 2 * half, colour(station), told)
        plot.text(station - 0.36, row - 0.4, f"{megabytes(size)} MB")


def _half(size: float, most: float) -> float:
    """Half of a bar's height in rows, by the logarithm of its bytes."""
    return LEAST + (HALF - LEAST) * math.log10(1 + size) / math.log10(1 + most)


def _at(site: str) -> str:
    return STATION_OF.get(site, "after")


def _answering(report: Report) -> list[BackendReport]:
    return [b for b in report.backends if b.copies or b.account or b.contention]


def _network_bytes(backend: BackendReport) -> int | None:
    """Return the bytes that the stages move at least; None where they were not counted."""
    stages = backend.roofline.stages if backend.roofline else []
    moved = [stage.moved_bytes for stage in stages if stage.stage != "frame"]
    return sum(moved) if moved else None


def _copied(shown: list[BackendReport]) -> list[list[str]]:
    flows = [by_station(b.copies, _network_bytes(b)) if b.copies else {} for b in shown]
    rows = [["copied of a frame by the host, in all"]]
    for flow in flows:
        copied = [size for name, size in flow.items() if name != "networks"]
        rows[0].append(megabytes(sum(copied)) if copied else "")
    for name in STATIONS:
        what = "moved by the networks, at least" if name == "networks" else f"copied: {name}"
        rows.append([what, *(megabytes(flow[name]) if name in flow else "" for flow in flows)])
    return rows


def _held(shown: list[BackendReport]) -> list[list[str]]:
    last = [b.memory[-1] if b.memory else None for b in shown]
    rows = [["footprint", *(megabytes(m.footprint_bytes) if m else "" for m in last)]]
    told = [b.account for b in shown]
    if any(account is not None for account in told):
        rows += [
            [f"of it, or beside it: {name}", *(_figure(a, attribute) for a in told)]
            for name, attribute in _ACCOUNT
        ]
        rows = [row for row in rows if set(row[1:]) - {NOT_TOLD, ""}]
    for name in ("active", "peak", "cache", "model"):
        what = "weights" if name == "model" else name
        cells = (megabytes(getattr(m, f"{name}_bytes")) if m else "" for m in last)
        rows.append([f"the framework's account: {what}", *cells])
    return rows


def _figure(account: Account | None, attribute: str) -> str:
    if account is None:
        return ""
    value: int | None = getattr(account, attribute)
    return NOT_TOLD if value is None else megabytes(value)


def _beyond(report: Report, shown: list[BackendReport]) -> list[str]:
    """What each takes more while both are resident than alone at the end of its memory pass."""
    row = ["more while both are resident"]
    both = report.together
    used = dict(zip(both.labels, both.footprint_bytes, strict=True)) if both else {}
    for backend in shown:
        alone = backend.memory[-1].footprint_bytes if backend.memory else 0
        more = used.get(backend.label, 0) - alone
        row.append(f"{more / 1e6:+.1f}" if backend.label in used and alone else "")
    return row


def _stolen(shown: list[BackendReport]) -> list[list[str]]:
    rows = [
        ["frames under full traffic (control)"],
        ["traffic beside frames (control)"],
    ]
    for backend in shown:
        found = stolen(backend.contention) if backend.contention else None
        rows[0].append(_kept(found.frames, found.frames_control) if found else "")
        rows[1].append(_kept(found.traffic, found.traffic_control) if found else "")
    return rows


def _kept(share: float | None, control: float | None) -> str:
    if share is None:
        return ""
    return f"{share:.0%}" + (f" ({control:.0%})" if control is not None else "")


def megabytes(size: float) -> str:
    """Return bytes in MB, to three figures below 100."""
    value = size / 1e6
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
