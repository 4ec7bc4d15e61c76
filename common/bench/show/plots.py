"""The figures of a report as data: subject, caption and marks. `svg` draws them."""

from collections.abc import Sequence
from statistics import median

import numpy as np

from ..model.ratios import named
from ..model.report import BackendReport, Report
from .figure import Figure, rows_plot
from .numbers import ms
from .pictures import picture_figure
from .start import start_figure
from .svg import Axis, Plot, axis_for, colour
from .table import contention_points, interval
from .unified import flow_figure

BINS = 60
WIDE = 20  # a span of more than this many times is shown on a logarithmic axis


__all__ = ["Figure", "figures"]


def figures(report: Report) -> list[Figure]:
    """Every figure there is data for."""
    styles = {backend.label: colour(n) for n, backend in enumerate(report.backends)}
    made = (
        _latency(report, styles),
        _ratios(report, styles),
        picture_figure(report, styles),
        _rounds(report, styles),
        _stages(report),
        _roofline(report, styles),
        _contention(report, styles),
        _memory(report, styles),
        _copies(report),
        start_figure(report),
        flow_figure(report),
    )
    return [figure for figure in made if figure is not None]


def _keys(backends: Sequence[BackendReport], styles: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((b.label, styles[b.label]) for b in backends)


def _latency(report: Report, styles: dict[str, str]) -> Figure | None:
    shown = [b for b in report.backends if b.frames and not b.wrong]
    if not shown:
        return None
    times = {b.label: np.concatenate([np.asarray(r) for r in b.frames]) for b in shown}
    everything = np.concatenate(list(times.values()))
    log = bool(everything.max() > WIDE * everything.min())
    x = axis_for("milliseconds a frame", [float(everything.min()), float(everything.max())], log)
    plot = rows_plot([b.label for b in shown], "latency", x)
    for row, backend in enumerate(shown[::-1]):
        values, style = times[backend.label], styles[backend.label]
        edges = (
            np.geomspace(x.low, x.high, BINS + 1) if log else np.linspace(x.low, x.high, BINS + 1)
        )
        counts, _ = np.histogram(values, edges)
        tops = [
            (float(e), row - 0.4 + 0.55 * c / counts.max())
            for c, lo, hi in zip(counts, edges[:-1], edges[1:], strict=True)
            for e in (lo, hi)
        ]
        plot.area(
            [(x.low, row - 0.4), *tops, (x.high, row - 0.4)],
            style,
            f"{backend.label}: {len(values)} frames",
        )
        for name, share in (("median", 50), ("p95", 95), ("p99", 99)):
            at = float(np.percentile(values, share))
            plot.line([(at, row - 0.45), (at, row + 0.2)], f"mark {style}")
            plot.dot(
                at, row - 0.4, style, f"{backend.label}, {name}: {ms(at)}", hollow=name != "median"
            )
    caption = "Every timed frame of every round. Dots: the median (full), p95 and p99 (hollow)."
    return Figure("Time of a frame", caption, plot, _keys(shown, styles))


def _ratios(report: Report, styles: dict[str, str]) -> Figure | None:
    shown = [(r, r.ratio) for r in named(report) if r.ratio]
    if not shown:
        return None
    ends = [end for _, i in shown for end in (i.low, i.high, 1.0)]
    x = axis_for("times as long", ends, log=max(ends) > 3 or min(ends) < 1 / 3)
    labels = [" / ".join(r.names) for r, _ in shown]
    plot = rows_plot(labels, "ratios", x)
    plot.line([(1.0, -0.5), (1.0, len(shown) - 0.5)], "roof", "equally fast")
    for row, (ratio, found) in enumerate(shown[::-1]):
        style = styles[ratio.second]
        plot.line([(found.low, row - 0.15), (found.high, row - 0.15)], style, interval(found))
        plot.dot(found.value, row - 0.15, style, f"{' / '.join(ratio.names)}: {interval(found)}")
    return Figure(
        "How many times as long",
        "95 % intervals over rounds; one that holds 1 (dashed) shows no difference.",
        plot,
        (),
    )


def _rounds(report: Report, styles: dict[str, str]) -> Figure | None:
    shown = [b for b in report.backends if len(b.frames) > 1 and not b.wrong]
    if not shown:
        return None
    series = {
        b.label: [(r.number + 1, median(r.frame_ms)) for r in b.rounds if r.frame_ms] for b in shown
    }
    relative = {
        label: [(n, at / series[label][0][1]) for n, at in points]
        for label, points in series.items()
    }
    values = [at for points in relative.values() for _, at in points]
    plot = Plot(
        "rounds",
        Axis("round", 0.5, report.settings.rounds + 0.5),
        axis_for("of the first round", values),
    )
    for label, points in relative.items():
        plot.line(points, styles[label], label)
        for (n, at), (_, raw) in zip(points, series[label], strict=True):
            plot.dot(n, at, styles[label], f"{label}, round {n}: {ms(raw)}")
    return Figure(
        "Round by round",
        "Median of each round over that of the first: drift, heat, a disturbed round.",
        plot,
        _keys(shown, styles),
    )


def _stages(report: Report) -> Figure | None:
    shown = [b for b in report.backends if b.stages_ms]
    if not shown:
        return None
    names = list(dict.fromkeys(name for b in shown for name in b.stages_ms))
    total = max(sum(median(t) for t in b.stages_ms.values()) for b in shown)
    plot = rows_plot([b.label for b in shown], "stages", Axis("milliseconds", 0, 1.02 * total))
    for row, backend in enumerate(shown[::-1]):
        at = 0.0
        for name, times in backend.stages_ms.items():
            length = max(0.0, median(times))
            plot.bar(
                at,
                at + length,
                row - 0.15,
                0.5,
                colour(names.index(name)),
                f"{backend.label}, {name}: {ms(length)}",
            )
            at += length
    legend = tuple((name, colour(n)) for n, name in enumerate(names))
    caption = (
        "Stages one by one, each waited for, in a pass of its own (medians); together more "
        "than a frame takes."
    )
    return Figure("Where the time goes", caption, plot, legend)


def _roofline(report: Report, styles: dict[str, str]) -> Figure | None:
    shown = [b for b in report.backends if b.roofline and b.roofline.stages]
    if not shown:
        return None
    points = [
        (s.intensity, s.flops / s.measured_ms * 1e3)
        for b in shown
        if b.roofline
        for s in b.roofline.stages
    ]
    peaks = [b.roofline.peak for b in shown if b.roofline]
    ridges = [p.flops_per_s / p.bytes_per_s for p in peaks]
    ends = [*(p[0] for p in points), *ridges]
    x = Axis("FLOPs for every byte moved", min(ends) / 4, max(ends) * 2, True)
    y = axis_for(
        "GFLOP/s",
        [*(p[1] / 1e9 for p in points), *(p.flops_per_s / 1e9 for p in peaks)],
        log=True,
        pad=0.15,
    )
    plot = Plot("roofline", x, y, 380)
    for peak in {p.how: p for p in peaks}.values():
        ridge = min(max(peak.flops_per_s / peak.bytes_per_s, x.low), x.high)
        left = max(y.low, x.low * peak.bytes_per_s / 1e9)
        start = left / (peak.bytes_per_s / 1e9)
        words = f"{peak.flops_per_s / 1e9:.0f} GFLOP/s, {peak.bytes_per_s / 1e9:.0f} GB/s"
        top = peak.flops_per_s / 1e9
        plot.line([(start, left), (ridge, top), (x.high, top)], "roof", f"{words}: {peak.how}")
    for backend in shown:
        for stage in backend.roofline.stages if backend.roofline else ():
            reached = stage.flops / stage.measured_ms / 1e6
            of_roof = f"{stage.share:.0%} of its roof, {stage.bound} side"
            readout = f"{backend.label}, {stage.stage}: {reached:.0f} GFLOP/s, {of_roof}"
            plot.dot(
                stage.intensity,
                reached,
                styles[backend.label],
                readout,
                hollow=stage.stage == "frame",
            )
            if backend is shown[0]:
                plot.text(stage.intensity, reached, stage.stage)
    caption = (
        "Work counted in the graph; peaks measured in this run (dashed). Left of the ridge memory "
        "is the limit, right of it arithmetic. Hollow: the whole frame."
    )
    return Figure("Under the roof", caption, plot, _keys(shown, styles))


def _contention(report: Report, styles: dict[str, str]) -> Figure | None:
    shown = [b for b in report.backends if contention_points(b)]
    if not shown:
        return None
    curves = {b.label: contention_points(b) for b in shown}
    rates = [rate for points in curves.values() for _, cached, rate, _ in points if not cached]
    x = Axis("memory traffic, GB/s as measured", 0, 1.05 * max(rates))
    plot = Plot("contention", x, Axis("frame rate, % of alone", 0, 110))
    for label, points in curves.items():
        alone = next(
            (median(t) for share, cached, _, t in points if share == 0 and not cached), None
        )
        if alone is None:
            continue
        line = sorted(
            (rate, 100 * alone / median(t)) for _, cached, rate, t in points if not cached
        )
        plot.line(line, styles[label], label)
        for share, cached, rate, times in points:
            at = 100 * alone / median(times)
            level = (
                "control, as busy in the cache"
                if cached
                else f"{share:.0%} of saturation, {rate:.1f} GB/s"
            )
            told = f"{label}, {level}: {ms(median(times))}, {at:.0f} % of its rate alone"
            plot.dot(max(rates) if cached else rate, at, styles[label], told, hollow=cached)
    caption = (
        "Other processes copy memory at a set rate. Hollow: the control, the same processes as "
        "busy inside the cache; what lies between is owed to memory and not to the cores they take."
    )
    return Figure("Under memory traffic", caption, plot, _keys(shown, styles))


def _memory(report: Report, styles: dict[str, str]) -> Figure | None:
    shown = [
        b for b in report.backends if b.memory_over_time and max(b.memory_over_time.frames) > 0
    ]
    if not shown:
        return None
    series = {
        b.label: [
            (100 * f / max(o.frames), used / 1e6)
            for f, used in zip(o.frames, o.footprint_bytes, strict=True)
        ]
        for b in shown
        if (o := b.memory_over_time)
    }
    values = [used for points in series.values() for _, used in points]
    plot = Plot(
        "memory", Axis("% of the pass", 0, 100), axis_for("footprint, MB", [0, *values], zero=True)
    )
    for backend in shown:
        over = backend.memory_over_time
        growth = (
            f", {over.growth.value / 1e6:+.2f} MB per 1,000 frames" if over and over.growth else ""
        )
        plot.line(series[backend.label], styles[backend.label], f"{backend.label}{growth}")
    ends = [
        f"{b.label}: {over.footprint_bytes[-1] / 1e6:.0f} MB after {max(over.frames)} frames"
        for b in shown
        if (over := b.memory_over_time)
    ]
    return Figure(
        "Memory over time",
        f"Footprint of the process while frames went by ({'; '.join(ends)}).",
        plot,
        _keys(shown, styles),
    )


def _copies(report: Report) -> Figure | None:
    shown = [b for b in report.backends if b.copies]
    if not shown:
        return None
    hands = list(dict.fromkeys(hand for b in shown for hand in b.copies))
    total = max(sum(b.copies.values()) for b in shown) / 1e6
    plot = rows_plot([b.label for b in shown], "copies", Axis("MB a frame", 0, 1.02 * total))
    for row, backend in enumerate(shown[::-1]):
        at = 0.0
        for hand, copied in backend.copies.items():
            end = at + copied / 1e6
            plot.bar(
                at,
                end,
                row - 0.15,
                0.5,
                colour(hands.index(hand)),
                f"{backend.label}, {hand}: {copied / 1e6:.3f} MB",
            )
            at = end
    legend = tuple((hand, colour(n)) for n, hand in enumerate(hands))
    return Figure(
        "What the host copies",
        "From a 1280 x 720 camera through the loop into a video file, by hand.",
        plot,
        legend,
    )
