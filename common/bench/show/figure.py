"""A figure of a report: subject, caption, plot and legend."""

from collections.abc import Sequence
from dataclasses import dataclass

from .svg import Axis, Plot

ROW_HEIGHT, FRAME = 58, 62


@dataclass(frozen=True, slots=True)
class Figure:
    """legend: (what, CSS class)."""

    title: str
    caption: str
    plot: Plot
    legend: tuple[tuple[str, str], ...]


def rows_plot(labels: Sequence[str], name: str, x: Axis) -> Plot:
    """A plot with a row for each label, the first on top."""
    return Plot(
        name, x, Axis("", -0.5, len(labels) - 0.5), FRAME + ROW_HEIGHT * len(labels), labels[::-1]
    )
