"""The figures of a report as PNG files, drawn by matplotlib (the `plot` extra) from the marks that
the page shows.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ...errors import SinkError
from ..model.report import Report
from .plots import Figure, figures
from .svg import HEIGHT, WIDTH, Mark

DPI = 200
_INCH = 100  # pixels of the page in an inch here
_COLOURS = (
    "#1f6feb",
    "#c2410c",
    "#13795b",
    "#8a3ffc",
    "#a16207",
    "#57606a",
    "#be185d",
    "#0e7490",
    "#6b4f3a",
)  # as report.css
_ROOF = "#57606a"


def write(report: Report, folder: Path) -> list[Path]:
    """Write each figure as `<name>.png` into `folder`, which is made, and return the files. Raises
    SinkError.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures(report):
            written.append(folder / f"{figure.plot.name}.png")
            _draw(figure).savefig(written[-1], dpi=DPI)
    except OSError as error:
        raise SinkError(
            f"{folder}: plots cannot be written ({error.strerror}); name another folder"
        ) from None
    return written


def _draw(figure: Figure) -> Canvas:
    plot = figure.plot
    canvas = Canvas(
        figsize=(WIDTH / _INCH, max(plot.height, HEIGHT * 0.6) / _INCH + 0.5), layout="constrained"
    )
    axes = canvas.add_subplot()
    axes.set_title(figure.title, loc="left")
    for axis, scale, limit, label in (
        (plot.x, axes.set_xscale, axes.set_xlim, axes.set_xlabel),
        (plot.y, axes.set_yscale, axes.set_ylim, axes.set_ylabel),
    ):
        scale("log" if axis.log else "linear")
        limit(axis.low, axis.high)
        label(axis.label)
    if plot.rows:
        axes.set_yticks(range(len(plot.rows)), plot.rows)
    axes.grid(alpha=0.3)
    for mark in plot.marks:
        _mark(axes, mark)
    handles = [
        axes.plot([], [], color=_colour(style), linewidth=5, label=label)[0]
        for label, style in figure.legend
    ]
    if handles:
        canvas.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(4, len(handles)),
            fontsize="small",
            frameon=False,
        )
    return canvas


def _mark(axes: Axes, mark: Mark) -> None:
    across, up = [p[0] for p in mark.points], [p[1] for p in mark.points]
    colour = _colour(mark.style)
    if mark.kind == "line":
        axes.plot(
            across, up, color=colour, linestyle="--" if mark.style == "roof" else "-", linewidth=1.6
        )
    elif mark.kind == "area":
        axes.fill(across, up, facecolor=colour, alpha=0.3, edgecolor=colour)
    elif mark.kind == "bar":
        axes.barh(
            (up[0] + up[1]) / 2, across[1] - across[0], up[0] - up[1], left=across[0], color=colour
        )
    elif mark.kind == "text":
        side = (
            {"ha": "right", "xytext": (-6, 0)} if mark.right else {"ha": "left", "xytext": (6, 0)}
        )
        axes.annotate(
            mark.readout,
            mark.points[0],
            textcoords="offset points",
            va="center",
            fontsize="small",
            **side,
        )
    else:
        axes.plot(
            across,
            up,
            "o",
            color=colour,
            markerfacecolor="white" if mark.kind == "hollow" else colour,
            zorder=3,
        )


def _colour(style: str) -> str:
    """Of a CSS class list that ends in c0 to c8; the roof's otherwise."""
    last = style.split()[-1] if style else ""
    return _COLOURS[int(last[1:])] if last[:1] == "c" and last[1:].isdigit() else _ROOF
