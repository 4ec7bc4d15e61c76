"""The figures of a report as PNG files: the page's own SVG in its light colours, rasterised by
resvg (the `plot` extra).
"""

import re
from html import escape
from pathlib import Path

from resvg_py import svg_to_bytes

from ...errors import SinkError
from ...files import write_whole
from ..model.report import Report
from . import svg
from .html import STYLE
from .plots import Figure, figures

SCALE = 2  # pixels of the image for one of the page
EDGE = 16
FAMILIES = ("Helvetica", "Arial", "DejaVu Sans", "Liberation Sans", "Noto Sans")


def write(report: Report, folder: Path) -> list[Path]:
    """Write each figure as `<name>.png` into `folder`, which is made, and return the files. Raises
    SinkError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(
            f"{folder}: plots cannot be written ({error.strerror}); name another folder"
        ) from None
    family = _family()
    drawn = {
        folder / f"{figure.plot.name}.png": _draw(figure, family) for figure in figures(report)
    }
    for path, picture in drawn.items():
        write_whole(path, picture)
    return list(drawn)


def _draw(figure: Figure, family: str) -> bytes:
    """The page's plot below its title and legend, which are HTML there."""
    parts = [
        f'<text class="label" x="{EDGE}" y="26" font-weight="bold">{escape(figure.title)}</text>'
    ]
    across, down = EDGE, 50
    for label, style in figure.legend:
        wide = 40 + 7 * len(label)
        if across + wide > svg.WIDTH and across > EDGE:
            across, down = EDGE, down + 20
        key = f'class="bar {style}" x="{across}" y="{down - 10}" width="12" height="12"'
        word = f'class="tick" x="{across + 18}" y="{down}"'
        parts.append(f"<rect {key}/><text {word}>{escape(label)}</text>")
        across += wide
    height = down + 12 + figure.plot.height
    place = f'<svg y="{down + 12}" height="{figure.plot.height}" '
    parts.append(svg.render(figure.plot).replace("<svg ", place, 1))
    page = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {svg.WIDTH} {height}"'
    colours, style = _light()
    return svg_to_bytes(
        svg_string=f"<svg {page}>{''.join(parts)}</svg>",
        style_sheet=style,
        background=colours["panel"],
        zoom=SCALE,
        sans_serif_family=family,
    )


def _family() -> str:
    """Return a font of this machine. Raises SinkError: resvg leaves out text it has no font for."""
    for family in FAMILIES:
        word = f'<text y="20" font-family="{family}">x</text>'
        blank, drawn = (
            svg_to_bytes(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 20">{text}</svg>')
            for text in ("", word)
        )
        if blank != drawn:
            return family
    raise SinkError(f"plots have no font; install one of {', '.join(FAMILIES)}, or take --html")


def _light() -> tuple[dict[str, str], str]:
    """The page's light colours by name, and its rules with the colours in place of the names."""
    root, _, rest = STYLE.read_text(encoding="utf-8").partition("@media")
    colours = dict(re.findall(r"--(\w+): (#\w+)", root))
    _, _, rules = rest.partition("} }")
    return colours, re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], rules)
