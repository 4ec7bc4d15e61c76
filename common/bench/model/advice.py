"""What a report must be read with: each warning says what was seen and what to do about it."""

import re
from collections.abc import Mapping
from statistics import median

from . import statistics
from .picture_advice import of_a_picture
from .report import BackendReport, Report
from .terms_advice import of_terms

BUSY = 0.5  # load average per core before the run
P99_FRAMES = 100
APART = 1.5  # how much longer the stages may take one by one than the frame
INSIDE = ("in", "encode", "unet", "decode", "out")
HOT = ("serious", "critical")
AGREE = 0.02  # two ways of counting the same work


def warnings(report: Report) -> list[str]:
    """Everything that makes a figure of this report less than it seems."""
    found = []
    if not report.complete and report.ended not in ("running", "finished"):
        found.append(f"the run was {report.ended}: figures are of what was measured until then")
    if report.settings.rounds < statistics.LEAST_ROUNDS:
        found.append(
            f"{report.settings.rounds} rounds carry no bootstrap interval; the wider Student "
            f"interval stands in: --rounds {statistics.LEAST_ROUNDS} or more"
        )
    if not report.settings.fresh:
        found.append(
            "all rounds ran in the same processes, so the intervals leave out how much one start "
            "differs from the next: run again without --keep, or twice"
        )
    found += _of_the_machine(report)
    found += of_terms(report)
    for backend in report.backends:
        found += of_a_picture(backend)
        found += [] if backend.wrong else _of_a_backend(backend)
    for count in report.counts:
        values = list(count.flops.values())
        if len(values) > 1 and max(values) > (1 + AGREE) * min(values):
            found.append(
                f"{count.stage}: ways of counting differ by more than {AGREE:.0%} ({count.flops}); "
                "please report this"
            )
    return found


def _of_the_machine(report: Report) -> list[str]:
    found, first = [], report.conditions[0] if report.conditions else {}
    load = load_of(first) or 0.0
    if load > BUSY * report.machine.cores:
        cores = report.machine.cores
        found.append(
            f"load average was {load:.1f} on {cores} cores at the start: end other programs, then "
            "repeat"
        )
    hot = [r.number + 1 for b in report.backends for r in b.rounds if r.heat in HOT]
    if hot:
        rounds = ", ".join(map(str, sorted(set(hot))))
        found.append(
            f"macOS called its thermal state serious or worse in rounds {rounds}: let the machine "
            "cool, then repeat"
        )
    if any("attery" in c.get("power", "") for c in report.conditions):
        found.append("ran on battery: plug the machine in, most slow down without it")
    limits = [c.get("thermal", "") for c in report.conditions]
    if any("CPU_Speed_Limit" in text and "CPU_Speed_Limit = 100" not in text for text in limits):
        found.append(
            "the system was slowing the chip down for heat: let it cool, then repeat with fewer "
            "rounds"
        )
    return found


def load_of(conditions: Mapping[str, str]) -> float | None:
    """Return the load average of the last minute; None if the system did not tell."""
    loads = re.match(r"\s*(\d{1,9}(?:\.\d*)?)", conditions.get("load", ""))
    return float(loads[1]) if loads else None


def _of_a_backend(backend: BackendReport) -> list[str]:
    found, failed = [], [r for r in backend.rounds if r.error]
    if failed:
        found.append(
            f"{backend.label} failed in {len(failed)} of {len(backend.rounds)} rounds "
            f"({failed[0].error}); the others are kept"
        )
    if not backend.frames:
        return found
    drift, outliers = statistics.drift(backend.frames), statistics.outliers(backend.frames)
    if abs(drift) > statistics.DRIFT:
        way = "slower" if drift > 0 else "faster"
        found.append(
            f"{backend.label} got {abs(drift):.0%} {way} from the first rounds to the last: let "
            "the machine cool or settle, end other programs, and repeat with more rounds; a ratio "
            "still holds, the rounds being in pairs"
        )
    if outliers > statistics.OUTLIER_SHARE:
        found.append(
            f"{backend.label}: {outliers:.0%} of frames took more than 1.5 times the median of "
            "their round, and p95 and p99 are theirs: end other programs"
        )
    stages_ms = sum(
        median(backend.stages_ms[name]) for name in INSIDE if backend.stages_ms.get(name)
    )
    if backend.summary and stages_ms > APART * backend.summary.median:
        times = stages_ms / backend.summary.median
        found.append(
            f"{backend.label}: one by one its stages take {times:.1f} times as long as in a frame, "
            "where they overlap or run without the host: shares of the roof by stage are too low, "
            "the whole frame's is what counts"
        )
    if backend.summary and backend.summary.frames < P99_FRAMES:
        found.append(
            f"{backend.label}: p99 of {backend.summary.frames} frames is little more than the "
            "slowest: more --rounds"
        )
    return found
