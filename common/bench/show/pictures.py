"""The picture beside the speed: cells of the tables, and the plot of one against the other."""

from statistics import median

from ..model.pictures import limits_of
from ..model.report import BackendReport, Report
from .figure import Figure
from .svg import Axis, Plot, axis_for

FAILED = "picture failed"
HEADS = ("backend", "picture", "PSNR", "worst", "SSIM", "flicker", "fresh / timed", "frames")
TITLE = "the picture of fresh frames, against {reference}"


def picture_cell(backend: BackendReport) -> str:
    """Return the verdict on a backend's picture for a column of the speed table."""
    check = backend.picture
    if check is None:
        return "not checked" if backend.frames else ""
    worst = "" if check.worst_db is None else f"{check.worst_db:.0f} dB"
    return f"FAILED {worst}".strip() if check.failed else worst


def picture_title(report: Report) -> str:
    """Return the title of the table of pictures, or '' where no picture was checked."""
    judges = dict.fromkeys(b.picture.reference for b in report.backends if b.picture)
    return TITLE.format(reference=", ".join(judges)) if judges else ""


def picture_rows(report: Report) -> list[list[str]]:
    """Return a row under `HEADS` for every backend whose picture was checked."""
    rows = []
    for backend in report.backends:
        check = backend.picture
        if check is None:
            continue
        typical, worst = check.typical, check.worst_db
        cells = ["", "", "", ""]
        if typical and worst is not None:
            quality, alike, flicker = typical
            cells = [f"{quality:.1f} dB", f"{worst:.1f} dB", f"{alike:.3f}"]
            cells.append(f"{flicker:.2f} levels")
        fresh = f"{median(check.fresh_ratio):.2f}" if check.fresh_ratio else ""
        verdict = "FAILED" if check.failed else "good"
        rows.append([backend.label, verdict, *cells, fresh, str(check.frames)])
    return rows


def picture_figure(report: Report, styles: dict[str, str]) -> Figure | None:
    """Plot the worst frame's PSNR against the frame rate; hollow: a picture that failed."""
    shown = [b for b in report.backends if b.summary and b.picture and b.picture.psnr_db]
    if not shown:
        return None
    points = {}
    for backend in shown:
        assert backend.summary and backend.picture
        points[backend.label] = backend.summary.fps, min(backend.picture.psnr_db)
    rates = [rate for rate, _ in points.values()]
    limits = {limits_of(b.describe).psnr_db for b in shown}
    x = axis_for("frames a second", [0.0, *rates], zero=True)
    ends = [*limits, *(quality for _, quality in points.values())]
    plot = Plot("picture", x, Axis("dB, worst frame", min(0.0, *ends), 1.06 * max(ends)))
    for limit in sorted(limits):
        plot.line([(x.low, limit), (x.high, limit)], "roof", f"expected: at least {limit:.0f} dB")
    for backend in shown:
        rate, quality = points[backend.label]
        told = f"{backend.label}: {rate:.1f} frames/s, worst frame {quality:.1f} dB"
        told += f"; {FAILED}: {backend.wrong}" if backend.wrong else ""
        plot.dot(rate, quality, styles[backend.label], told, hollow=bool(backend.wrong))
    caption = (
        "Fresh frames, rendered by the timed processes, against a float32 reference. Dashed: the "
        "least that passes. Hollow: failed, so its rate is none of this work."
    )
    return Figure(
        "The picture beside the speed",
        caption,
        plot,
        tuple((b.label, styles[b.label]) for b in shown),
    )
