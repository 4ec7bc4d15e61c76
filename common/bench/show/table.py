"""A report as tables for a terminal."""

from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ..model import advice, others, paper
from ..model.compare import Change
from ..model.pairs import Ratio
from ..model.ratios import named
from ..model.report import BackendReport, Report
from ..model.statistics import Interval
from . import energy, start
from .numbers import ms
from .numbers import three as _plain
from .pictures import FAILED, HEADS, picture_rows, picture_title
from .speed import SPEED_HEADS, speed_cells
from .sustained import NO_HEAT, heat_by_round, sustained_lines
from .unified import TITLE, unified_heads, unified_rows


def render(report: Report) -> RenderableType:
    """Everything that was measured, the headline first."""
    work = report.work
    title = f"{work.model} at {work.frame.words} on {report.machine.chip or report.machine.system}"
    if report.machine.accelerator:
        title += f", {report.machine.accelerator}"
    parts: list[RenderableType] = [_speed(report, escape(title))]
    for ratio in named(report):
        told = (
            in_words(ratio, ratio.ratio, report.settings.fresh)
            if ratio.ratio
            else f"not compared: {ratio.refused}"
        )
        parts.append(escape(told))
    parts += [
        part
        for part in (
            _pictures(report),
            _stages(report),
            _roofline(report),
            _memory(report),
            _copies(report),
            _unified(report),
        )
        if part
    ]
    parts += [escape(f"{b.label}: {note}") for b in report.backends for note in b.notes]
    last = (
        _contention(report),
        _together(report),
        *sustained_lines(report),
        f"thermal state: {heat}" if (heat := heat_by_round(report)) != NO_HEAT else None,
        _paper(report),
        _others(report),
    )
    parts += [part for part in last if part]
    parts += [*_energy(report), *_starts(report)]
    parts += [f"[yellow]warning:[/] {escape(line)}" for line in advice.warnings(report)]
    parts += [f"[red]failed:[/] {escape(line)}" for line in report.failures]
    return Group(*parts)


def changes(found: Sequence[Change], notes: Sequence[str] = ()) -> RenderableType:
    """Two reports compared. notes: what their figures must be read with."""
    table = Table("backend", "first", "second", "second / first", "so it is", title_justify="left")
    for change in found:
        table.add_row(
            escape(change.name),
            ms(change.first_ms),
            ms(change.second_ms),
            interval(change.ratio) if change.ratio else "",
            change.verdict,
        )
    return Group(table, *(f"[yellow]warning:[/] {escape(line)}" for line in notes))


def interval(found: Interval) -> str:
    return f"{_plain(found.value)} ({_plain(found.low)} to {_plain(found.high)})"


def in_words(pair: Ratio, ratio: Interval, fresh: bool) -> str:
    """A ratio as a sentence that claims no more than its interval.

    fresh: whether the interval holds how much starts differ.
    """
    first, second = pair.names
    left_out = "" if fresh else ", which leaves out how much starts differ"
    times = (
        f"{_plain(ratio.value)} times as long as {second} (95 % interval {_plain(ratio.low)} "
        f"to {_plain(ratio.high)}{left_out})"
    )
    if ratio.contains(1):
        return f"{first} takes {times}, which holds 1: no difference shown"
    return f"{first} takes {times}"


def _speed(report: Report, title: str) -> Table:
    table = Table(*SPEED_HEADS, title=title, title_justify="left")
    for backend in report.backends:
        label, first, *others = map(escape, speed_cells(backend, report.settings.fresh))
        table.add_row(label, f"[red]{first}[/]" if first in ("failed", FAILED) else first, *others)
    return table


def _pictures(report: Report) -> Table | None:
    title = picture_title(report)
    if not title:
        return None
    table = Table(*HEADS, title=escape(title), title_justify="left")
    for row in picture_rows(report):
        label, verdict, *others = map(escape, row)
        table.add_row(label, f"[red]{verdict}[/]" if verdict == "FAILED" else verdict, *others)
    return table


def _stages(report: Report) -> Table | None:
    shown = [b for b in report.backends if b.stages_ms]
    if not shown:
        return None
    names = list(dict.fromkeys(name for b in shown for name in b.stages_ms))
    table = Table(
        "backend", *names, title="stages, each waited for (median ms)", title_justify="left"
    )
    for backend in shown:
        cells = [
            f"{median(times):.2f}" if (times := backend.stages_ms.get(name)) else ""
            for name in names
        ]
        table.add_row(escape(backend.label), *cells)
    return table


def _roofline(report: Report) -> RenderableType | None:
    lines: list[str] = []
    for backend in report.backends:
        if backend.roofline is None:
            continue
        peak = backend.roofline.peak
        lines.append(
            f"[bold]{escape(backend.label)}[/]: peak {peak.flops_per_s / 1e9:.0f} GFLOP/s "
            f"{peak.dtype}, "
            f"{peak.bytes_per_s / 1e9:.1f} GB/s, ridge {backend.roofline.ridge:.0f} FLOPs a byte"
        )
        lines += [f"  {escape(stage.verdict)}" for stage in backend.roofline.stages]
        lines.append(f"  {escape(backend.roofline.frame_verdict)}")
    return Group(*lines) if lines else None


def _memory(report: Report) -> Table | None:
    shown = [b for b in report.backends if b.memory]
    if not shown:
        return None
    heads = (
        "backend",
        "at load",
        "warm",
        "at the end",
        "per 1,000 frames",
        "framework peak",
        "weights",
    )
    table = Table(*heads, title="memory of the process (MB)", title_justify="left")
    for backend in shown:
        points = {point.moment: f"{point.footprint_bytes / 1e6:.0f}" for point in backend.memory}
        last = backend.memory[-1]
        table.add_row(
            escape(backend.label),
            *(points.get(moment, "") for moment in ("load", "warm-up", "end")),
            _growth(backend),
            f"{last.peak_bytes / 1e6:.0f}",
            f"{last.model_bytes / 1e6:.0f}",
        )
    return table


def _growth(backend: BackendReport) -> str:
    over = backend.memory_over_time
    if over is None or over.growth is None:
        return ""
    value, low, high = (g / 1e6 for g in (over.growth.value, over.growth.low, over.growth.high))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def _copies(report: Report) -> Table | None:
    shown = [b for b in report.backends if b.copies]
    if not shown:
        return None
    hands = list(dict.fromkeys(hand for b in shown for hand in b.copies))
    labels = [escape(b.label) for b in shown]
    table = Table(
        "hand", *labels, title="bytes the host copies per frame (kB)", title_justify="left"
    )
    for hand in hands:
        table.add_row(
            hand, *(f"{b.copies[hand] / 1e3:.0f}" if hand in b.copies else "" for b in shown)
        )
    table.add_row("[bold]in all[/]", *(f"{sum(b.copies.values()) / 1e3:.0f}" for b in shown))
    return table


def _unified(report: Report) -> Table | None:
    rows = unified_rows(report)
    if not rows:
        return None
    table = Table(*map(escape, unified_heads(report)), title=TITLE, title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def contention_points(backend: BackendReport) -> list[tuple[float, bool, float, list[float]]]:
    """Collect (share wanted, control?, GB/s measured, frame times) by level, over all sweeps."""
    curve = backend.contention
    if curve is None:
        return []
    levels = sorted(
        {(p.wanted_share, p.cached) for p in curve.points}, key=lambda level: (level[1], level[0])
    )
    rows = []
    for share, cached in levels:
        points = [p for p in curve.points if (p.wanted_share, p.cached) == (share, cached)]
        rate = sum(p.traffic_bytes_per_s for p in points) / len(points) / 1e9
        rows.append((share, cached, rate, [t for p in points for t in p.frame_ms]))
    return rows


def _contention(report: Report) -> Table | None:
    shown = [b for b in report.backends if b.contention and b.contention.points]
    if not shown or shown[0].contention is None:
        return None
    first = shown[0].contention
    title = (
        f"under memory traffic of {first.processes} processes, "
        f"{first.saturation_bytes_per_s / 1e9:.1f} GB/s at most alone"
    )
    table = Table(
        "backend", "traffic", "GB/s", "median", "frames/s", title=title, title_justify="left"
    )
    for backend in shown:
        for share, cached, rate, times in contention_points(backend):
            level = "control: busy in cache" if cached else f"{share:.0%}"
            table.add_row(
                escape(backend.label),
                level,
                f"{rate:.1f}",
                ms(median(times)),
                f"{1000 / median(times):.1f}",
            )
    return table


def _energy(report: Report) -> list[RenderableType]:
    rows = energy.energy_rows(report)
    table = Table(*energy.HEADS, title=energy.energy_title(report), title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    return [*([table] if rows else []), *map(escape, energy.energy_notes(report))]


def _starts(report: Report) -> list[RenderableType]:
    rows = start.start_rows(report)
    table = Table(*start.start_heads(report), title=start.TITLE, title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    return [*([table] if rows else []), *map(escape, start.start_notes(report))]


def _together(report: Report) -> str | None:
    both = report.together
    if both is None:
        return None
    told = [
        f"{label} {together:.1f} of {alone:.1f} frames/s ({together / alone:.0%}, {used / 1e6:.0f} "
        "MB)"
        for label, alone, together, used in zip(
            both.labels, both.alone_fps, both.together_fps, both.footprint_bytes, strict=True
        )
    ]
    return escape(f"both at once: {'; '.join(told)}")


def _others(report: Report) -> Table | None:
    rows = others.published(report.work)
    table = Table(*others.HEADS, title=others.TITLE, title_justify="left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table if rows else None


def _paper(report: Report) -> Table | None:
    if not report.paper:
        return None
    labels = list(dict.fromkeys(label for row in report.paper for label in row.ours_ms))
    title = f"beside the paper, {paper.NOT_THE_SAME_MACHINE}: {paper.source()}"
    heads = ("work", "paper, its machine", *(f"{label}, this machine" for label in labels))
    table = Table(*heads, title=title, title_justify="left")
    for row in report.paper:
        cells = [ms(row.ours_ms[label]) if label in row.ours_ms else "" for label in labels]
        table.add_row(row.what, ms(row.paper_ms), *map(str, cells))
    return table
