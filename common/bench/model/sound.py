"""Say which number of a report no machine can have measured: files are edited, and break."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

MOST = 1e15  # of any figure: bytes, FLOPs a second of 1,000 accelerators, milliseconds of an age
LEAST_MS = 1e-6
_TIMES = ("frame_ms", "warm_ms", "latency_ms", "stages_ms", "median", "p95", "p99", "measured_ms")
_SIGNED = ("growth", "ssim")  # memory may shrink, pictures may be opposites


def unsound(report: object) -> str:
    """Return the first place of a report whose number cannot be, with the reason, or ''."""
    for place, value in _numbers(report, "report"):
        if not abs(value) <= MOST:
            return f"{place} is {value:.6g}, which is no measurement"
        steps = [step.partition("[")[0] for step in place.split(".")]
        if any(step in _TIMES for step in steps) and value < LEAST_MS:
            return f"{place} is {value:.6g}, expected a time above 0"
        if value < 0 and not any(step in _SIGNED for step in steps):
            return f"{place} is {value:.6g}, expected 0 or more"
    return ""


def _numbers(value: object, place: str) -> Iterator[tuple[str, float]]:
    """Yield every number with its place; an integer too large for a float is infinite."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        huge = abs(value) > MOST
        yield place, (math.inf if value > 0 else -math.inf) if huge else value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _numbers(each, f"{place}.{name}")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _numbers(each, f"{place}[{number}]")
    elif is_dataclass(value):
        for one in fields(value):
            yield from _numbers(getattr(value, one.name), f"{place}.{one.name}")
