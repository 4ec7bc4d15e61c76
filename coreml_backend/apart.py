"""What calls Core ML before a session, as functions for a child process (`prepare.py`)."""

from typing import TYPE_CHECKING

import numpy as np

from ..common.checkpoint.find import Checkpoint
from .cache import Built
from .options import CoreMLOptions
from .runner import Progress, open_runner

if TYPE_CHECKING:
    from .compute_plan import PlanSummary


def load(built: Built, checkpoint: Checkpoint, options: CoreMLOptions, report: Progress) -> None:
    """Compile and load the program of every stage once. Raises BackendError."""
    for stage in options.stages:
        open_runner(built, stage, checkpoint, options, report).close()


def render_probe(
    built: Built, checkpoint: Checkpoint, options: CoreMLOptions, report: Progress
) -> np.ndarray:
    """Render the gate's probe frame, uint8 (H, W, 3). Raises BackendError."""
    from .gate import render

    runners = [open_runner(built, stage, checkpoint, options, report) for stage in options.stages]
    try:
        return render(checkpoint, runners, options)
    finally:
        for runner in runners:
            runner.close()


def plan(built: Built, options: CoreMLOptions, report: Progress) -> list[str]:
    """Return the compute plan of every program as lines of text. Raises BackendError."""
    from .compute_plan import describe  # imports coremltools, which takes seconds

    report("ask for the compute plan", 0.0)
    return describe(built, options)


def plan_summaries(built: Built, options: CoreMLOptions, report: Progress) -> "list[PlanSummary]":
    """Return the compute plan of every program. Raises BackendError."""
    from .compute_plan import plans

    report("ask for the compute plan", 0.0)
    return plans(built, options)
