"""A report as one HTML file: tables and plots, readable without a network, in light and dark."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..model import advice, others, paper
from ..model.ratios import named
from ..model.report import Report
from . import energy, start, svg
from .numbers import ms
from .pictures import HEADS, picture_rows, picture_title
from .plots import Figure, figures
from .speed import SPEED_HEADS, speed_cells
from .sustained import heat_by_round, sustained_lines
from .table import in_words
from .unified import TITLE, unified_heads, unified_rows

TIMES = "\u00d7"
STYLE = Path(__file__).with_name("report.css")


def render(report: Report) -> str:
    """The whole page."""
    work, machine = report.work, report.machine
    title = f"{work.model} at {work.frame.words.replace('x', TIMES)}"
    measured_on = ", ".join(filter(None, (machine.chip, machine.accelerator, machine.system)))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(measured_on)} \u00b7 {escape(report.began)}</p>',
        *(
            []
            if report.complete
            else [f'<p class="warning">Not complete: the run {escape(report.ended)}.</p>']
        ),
        *(f'<p class="lead">{escape(line)}</p>' for line in _lead(report)),
        _speed(report),
        _pictures(report),
        *(_figure(figure) for figure in figures(report)),
        _verdicts(report),
        _memory(report),
        _energy(report),
        _starts(report),
        _unified(report),
        *(f"<p>{escape(line)}</p>" for line in sustained_lines(report)),
        _paper(report),
        _others(report),
        _notes(report),
        _environment(report),
    ]
    style = STYLE.read_text(encoding="utf-8")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} \u00b7 '
        "sdxs bench</title>"
        '<meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><style>{style}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _lead(report: Report) -> list[str]:
    return [
        f"{in_words(r, r.ratio, report.settings.fresh)}."
        if r.ratio
        else f"{r.first} and {r.second} are not compared: {r.refused}."
        for r in named(report)
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _speed(report: Report) -> str:
    return _table(
        SPEED_HEADS,
        [speed_cells(backend, report.settings.fresh) for backend in report.backends],
        "Time that a frame takes of a stream, and from submit to collect (latency)",
    )


def _pictures(report: Report) -> str:
    title = picture_title(report)
    return _table(HEADS, picture_rows(report), title[:1].upper() + title[1:]) if title else ""


def _figure(figure: Figure) -> str:
    legend = "".join(
        f'<span class="key"><i class="{style}"></i>{escape(label)}</span>'
        for label, style in figure.legend
    )
    return (
        f"<figure><figcaption><b>{escape(figure.title)}</b> {escape(figure.caption)}</figcaption>"
        f'<div class="legend">{legend}</div><div '
        f'class="scroll">{svg.render(figure.plot)}</div></figure>'
    )


def _verdicts(report: Report) -> str:
    parts = []
    for backend in (b for b in report.backends if b.roofline):
        assert backend.roofline is not None
        peak, found = backend.roofline.peak, backend.roofline
        lines = [stage.verdict for stage in found.stages] + [found.frame_verdict]
        items = "".join(f"<li>{escape(line)}</li>" for line in lines if line)
        parts.append(
            f"<h3>{escape(backend.label)}</h3><p>Peak {peak.flops_per_s / 1e12:.2f} TFLOP/s in "
            f"{escape(peak.dtype)}, "
            f"{peak.bytes_per_s / 1e9:.0f} GB/s ({escape(peak.how)}).</p><ul>{items}</ul>"
        )
    parts += [f"<p>{escape(f'{b.label}: {note}')}</p>" for b in report.backends for note in b.notes]
    return f"<h2>What limits each stage, and what could help</h2>{''.join(parts)}" if parts else ""


def _memory(report: Report) -> str:
    rows = []
    for backend in (b for b in report.backends if b.memory):
        points = {p.moment: f"{p.footprint_bytes / 1e6:.0f}" for p in backend.memory}
        last, over = backend.memory[-1], backend.memory_over_time
        growth = over.growth if over else None
        grown = (
            f"{growth.value / 1e6:+.2f} ({growth.low / 1e6:+.2f} to {growth.high / 1e6:+.2f})"
            if growth
            else ""
        )
        rows.append(
            [
                backend.label,
                points.get("load", ""),
                points.get("warm-up", ""),
                points.get("end", ""),
                grown,
                f"{last.active_bytes / 1e6:.0f}",
                f"{last.peak_bytes / 1e6:.0f}",
                f"{last.cache_bytes / 1e6:.0f}",
                f"{last.model_bytes / 1e6:.0f}",
            ]
        )
    heads = (
        "backend",
        "at load",
        "warm",
        "at the end",
        "per 1,000 frames",
        "framework active",
        "peak",
        "cache",
        "weights",
    )
    text = (
        _table(
            heads, rows, "Memory in MB: footprint of the process, then what the framework counts"
        )
        if rows
        else ""
    )
    if both := report.together:
        told = [
            f"{label} {together:.1f} of {alone:.1f} frames/s"
            for label, alone, together in zip(
                both.labels, both.alone_fps, both.together_fps, strict=True
            )
        ]
        text += f"<p>Resident and running at once: {escape('; '.join(told))}.</p>"
    return text


def _energy(report: Report) -> str:
    rows, title = energy.energy_rows(report), energy.energy_title(report)
    table = _table(energy.HEADS, rows, title[:1].upper() + title[1:]) if rows else ""
    return table + "".join(f"<p>{escape(line)}.</p>" for line in energy.energy_notes(report))


def _starts(report: Report) -> str:
    rows, title = start.start_rows(report), start.TITLE
    heads = start.start_heads(report)
    table = _table(heads, rows, title[:1].upper() + title[1:]) if rows else ""
    return table + "".join(f"<p>{escape(line)}.</p>" for line in start.start_notes(report))


def _unified(report: Report) -> str:
    rows = unified_rows(report)
    title = TITLE[:1].upper() + TITLE[1:]
    return _table(unified_heads(report), rows, title) if rows else ""


def _paper(report: Report) -> str:
    if not report.paper:
        return "<p>The paper has no figure for this work (another UNet, or another size).</p>"
    labels = list(dict.fromkeys(label for row in report.paper for label in row.ours_ms))
    rows = [
        [
            row.what,
            ms(row.paper_ms),
            *(ms(row.ours_ms[label]) if label in row.ours_ms else "" for label in labels),
        ]
        for row in report.paper
    ]
    heads = ("work", "paper, its machine", *(f"{label}, this machine" for label in labels))
    return _table(heads, rows, f"Beside the paper, {paper.NOT_THE_SAME_MACHINE}. {paper.source()}")


def _others(report: Report) -> str:
    rows = others.published(report.work)
    return _table(others.HEADS, rows, others.TITLE.capitalize()) if rows else ""


def _notes(report: Report) -> str:
    lines = [("warning", line) for line in advice.warnings(report)] + [
        ("failed", line) for line in report.failures
    ]
    if not lines:
        return ""
    return "<h2>To be read with care</h2>" + "".join(
        f'<p class="{kind}">{escape(line)}</p>' for kind, line in lines
    )


def _environment(report: Report) -> str:
    machine, work = report.machine, report.work
    facts = {
        "cores": str(machine.cores),
        "memory": f"{machine.memory_bytes / 1e9:.0f} GB",
        "python": machine.python,
        **machine.versions,
        **machine.environment,
        "commit": machine.git,
        "prompt": work.prompt,
        "seed": str(work.seed),
        "UNet": (
            f"{work.unet_parameters / 1e6:.2f} M parameters, sha256 {work.weights['unet'][:16]}"
        ),
        "VAE": f"sha256 {work.weights['vae'][:16]}",
        "rounds": f"{report.settings.rounds} of {report.settings.turns} turns, "
        + (
            "each in processes of its own" if report.settings.fresh else "all in the same processes"
        ),
        "thermal state": heat_by_round(report),
        "took": f"{report.seconds:.0f} s",
    }
    for moment, found in zip(("at the start", "at the end"), report.conditions, strict=False):
        facts[f"conditions {moment}"] = ", ".join(
            f"{name} {value}" for name, value in found.items()
        )
    rows = [[name, value] for name, value in facts.items() if value]
    return (
        "<details><summary>Everything it was measured "
        f"under</summary>{_table(('what', 'is'), rows, '')}</details>"
    )
