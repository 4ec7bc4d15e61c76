"""Starts, part by part: rows for the terminal and the page, and the plot."""

from ..model.report import BackendReport, Report
from ..model.start import COLD, KEPT, Start, middle
from .figure import Figure, rows_plot
from .numbers import three
from .svg import Axis, colour

TITLE = "a start, from the request for a process to its first picture: the middle one (ms)"
KINDS = {COLD: "cold", KEPT: "caches kept"}


def start_heads(report: Report) -> list[str]:
    """Return the heads: phases in their order, the whole, and what follows."""
    return ["backend", "start", *_names(report), "in all", "fastest, slowest", "starts", "a frame"]


def start_rows(report: Report) -> list[list[str]]:
    """Return a row under `start_heads` for each backend's cold and kept starts."""
    names = _names(report)
    rows = []
    for backend, kind, starts in _shown(report):
        start = middle(starts)
        phases = (start.phases_ms.get(name) for name in names)
        whole = [each.whole_ms for each in starts]
        rows.append(
            [
                backend.label,
                KINDS[kind],
                *("" if took is None else three(took) for took in phases),
                three(start.whole_ms),
                f"{three(min(whole))}, {three(max(whole))}",
                str(len(starts)),
                three(start.steady_ms),
            ]
        )
    return rows


def start_notes(report: Report) -> list[str]:
    """Say what was emptied before a cold start, and what could not be told apart."""
    lines: dict[str, list[str]] = {}
    asked = [backend for backend in report.backends if backend.starts]
    for backend in asked:
        assert backend.starts is not None
        found = [f"page cache: {backend.starts.page_cache}"]
        found.append(f"compiled before: {backend.starts.compile_cache}")
        cold = backend.starts.of(COLD)
        if any(start.compiled_files == 0 for start in cold):
            found[-1] += "; nothing was compiled into it, so compiling cold and cached are the same"
        if backend.starts.compile_cache.startswith("kept"):
            found[-1] += "; compiling cold is not split from compiling cached"
        seen = [start.resident for start in cold if start.resident is not None]
        if seen:
            found[0] += f" (at most {max(seen):.1%} of them in memory before a cold start)"
        for line in found:
            lines.setdefault(line, []).append(backend.label)
    everybody = len(asked)
    return [
        f"starts{'' if len(labels) == everybody else ' of ' + ', '.join(labels)}: {line}"
        for line, labels in lines.items()
    ]


def start_figure(report: Report) -> Figure | None:
    """A bar for each kind of start, its phases one after the other."""
    shown = [(f"{b.label}, {KINDS[kind]}", middle(starts)) for b, kind, starts in _shown(report)]
    if not shown:
        return None
    names = _names(report)
    most = max(start.whole_ms for _, start in shown)
    plot = rows_plot([label for label, _ in shown], "starts", Axis("milliseconds", 0, 1.02 * most))
    for row, (label, start) in enumerate(shown[::-1]):
        at = 0.0
        for name, took in start.phases_ms.items():
            told = f"{label}, {name}: {three(took)} ms"
            plot.bar(at, at + took, row - 0.15, 0.5, colour(names.index(name)), told)
            at += took
    legend = tuple((name, colour(n)) for n, name in enumerate(names))
    caption = (
        "From the request for a process to the first picture, the middle one of each kind. What "
        "was emptied before a cold one is said below."
    )
    return Figure("Where a start's time goes", caption, plot, legend)


def _shown(report: Report) -> list[tuple[BackendReport, str, list[Start]]]:
    kinds = [(b, kind, b.starts.of(kind)) for b in report.backends if b.starts for kind in KINDS]
    return [(backend, kind, starts) for backend, kind, starts in kinds if starts]


def _names(report: Report) -> list[str]:
    """Return the phases of all starts, each once, in the order of a start."""
    every = [name for _, _, starts in _shown(report) for name in starts[0].phases_ms]
    return list(dict.fromkeys(every))
