"""Moments within a backend's `load`, for `bench` to split a start by.

A backend that can tell calls `reached` when a phase is done; the rest of `load` is named together.
"""

import time

WEIGHTS = "weights"

_reached: list[tuple[str, int]] = []


def reached(phase: str) -> None:
    """Note that a phase of this process's start is done."""
    _reached.append((phase, time.perf_counter_ns()))


def take() -> list[tuple[str, int]]:
    """Return what was reached in this process since the last call, with the time in ns."""
    taken = list(_reached)
    _reached.clear()
    return taken
