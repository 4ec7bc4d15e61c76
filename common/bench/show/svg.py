"""Plots as inline SVG: two axes, marks with a readout on hover.

Colours are CSS classes, so light and dark both work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 46
COLOURS = 9  # classes c0 to c8


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high` in data; logarithmic if `log`, and then both are above 0."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`."""
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        """Return round numbers of the axis: powers of ten, or five to eight even steps."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            wide = self.high / self.low
            factors: tuple[float, ...] = (
                (1, 1.5, 2, 3, 4, 5, 7) if wide < 10 else (1, 2, 5) if wide < 300 else (1,)
            )
            ticks = [f * 10.0**d for d in decades for f in factors]
        else:
            span = self.high - self.low
            step = 10 ** math.floor(math.log10(span / 4)) if span > 0 else 1.0
            step *= next(f for f in (1, 2, 5, 10) if span / (f * step) <= 7)
            ticks = [
                step * n
                for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
            ]
        inside = (self.low - 1e-9 * abs(self.low), self.high + 1e-9 * abs(self.high))
        return [tick for tick in ticks if inside[0] <= tick <= inside[1]]


def axis_for(
    label: str, values: Sequence[float], log: bool = False, zero: bool = False, pad: float = 0.06
) -> Axis:
    """An axis around `values` with a little room; from 0 if `zero`."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** pad, 1.15)
        return Axis(label, low / room, high * room, True)
    room = (high - low) * pad or abs(high) * pad or 1.0
    return Axis(label, 0.0 if zero else low - room, high + room)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something drawn.

    kind: 'line', 'area', 'dot', 'hollow', 'bar' (two corners) or 'text'. style: a CSS class.
    """

    kind: str
    points: tuple[tuple[float, float], ...]
    style: str
    readout: str = ""
    right: bool = False  # text: ends at its point instead of beginning there


@dataclass
class Plot:
    """One figure: axes and marks, in the data's units.

    `rows` names whole numbers of y where those are rows.
    """

    name: str
    x: Axis
    y: Axis
    height: int = HEIGHT
    rows: Sequence[str] = ()
    marks: list[Mark] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], style: str, readout: str = "") -> None:
        self.marks.append(Mark("line", tuple(points), style, readout))

    def area(self, points: Sequence[tuple[float, float]], style: str, readout: str = "") -> None:
        self.marks.append(Mark("area", tuple(points), style, readout))

    def dot(self, x: float, y: float, style: str, readout: str = "", hollow: bool = False) -> None:
        self.marks.append(Mark("hollow" if hollow else "dot", ((x, y),), style, readout))

    def bar(
        self, x0: float, x1: float, y: float, thickness: float, style: str, readout: str = ""
    ) -> None:
        """A horizontal bar around row `y`; thickness in rows."""
        self.marks.append(
            Mark("bar", ((x0, y + thickness / 2), (x1, y - thickness / 2)), style, readout)
        )

    def text(self, x: float, y: float, words: str, right: bool = False) -> None:
        self.marks.append(Mark("text", ((x, y),), "", words, right))


def render(plot: Plot) -> str:
    """The figure as an SVG element."""

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + plot.x.share(x) * (WIDTH - LEFT - RIGHT)
        down = TOP + (1 - plot.y.share(y)) * (plot.height - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    described = f"{plot.y.label or plot.name} against {plot.x.label}"
    parts = [
        f'<svg id="{plot.name}" class="plot" viewBox="0 0 {WIDTH} {plot.height}" role="img" '
        f'aria-label="{escape(described)}">'
    ]
    foot = plot.height - BOTTOM
    for tick in plot.x.ticks():
        across, _ = at(tick, plot.y.low)
        parts.append(f'<line class="grid" x1="{across}" y1="{TOP}" x2="{across}" y2="{foot}"/>')
        parts.append(
            f'<text class="tick" x="{across}" y="{foot + 16}" '
            f'text-anchor="middle">{number(tick)}</text>'
        )
    for tick in () if plot.rows else plot.y.ticks():
        _, down = at(plot.x.low, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{down}" x2="{WIDTH - RIGHT}" y2="{down}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{down + 4}" '
            f'text-anchor="end">{number(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{plot.height - 8}" '
        f'text-anchor="middle">{escape(plot.x.label)}</text>'
    )
    if plot.y.label:
        turn = f"rotate(-90 14 {(TOP + foot) / 2})"
        place = f'x="14" y="{(TOP + foot) / 2}" transform="{turn}" text-anchor="middle"'
        parts.append(f'<text class="label" {place}>{escape(plot.y.label)}</text>')
    parts += [_mark(mark, [at(*point) for point in mark.points]) for mark in plot.marks]
    for row, name in enumerate(plot.rows):
        _, down = at(plot.x.low, row + 0.5)
        parts.append(f'<text class="row" x="{LEFT}" y="{down + 14}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _mark(mark: Mark, pixels: Sequence[tuple[float, float]]) -> str:
    readout = f"<title>{escape(mark.readout)}</title>" if mark.readout else ""
    (x, y), kind, style = pixels[0], mark.kind, mark.style
    if kind in ("line", "area"):
        path = " ".join(f"{across},{down}" for across, down in pixels)
        shape = "polyline" if kind == "line" else "polygon"
        return f'<{shape} class="{kind} {style}" points="{path}">{readout}</{shape}>'
    if kind == "bar":
        right, foot = pixels[1]
        size = f'width="{max(0.5, right - x):.1f}" height="{foot - y:.1f}"'
        return f'<rect class="bar {style}" x="{x}" y="{y}" {size}>{readout}</rect>'
    if kind == "text":
        anchor, shift = ("end", -8) if mark.right else ("start", 8)
        return (
            f'<text class="word" x="{x + shift}" y="{y + 4}" '
            f'text-anchor="{anchor}">{escape(mark.readout)}</text>'
        )
    classes = "dot hollow" if kind == "hollow" else "dot"
    return f'<circle class="{classes} {style}" cx="{x}" cy="{y}" r="4.5">{readout}</circle>'


def colour(number: int) -> str:
    """The class of the n-th backend."""
    return f"c{number % COLOURS}"


def number(value: float) -> str:
    """A tick's number, without noise digits."""
    if value == 0:
        return "0"
    if abs(value) >= 1e4:
        for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= unit:
                return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
