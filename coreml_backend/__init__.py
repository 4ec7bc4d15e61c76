"""SDXS as Core ML programs, written straight from safetensors; run by Core ML, or read by an
interpreter.
"""

import logging

from ..common.backend.spec import BackendSpec
from .options import CoreMLOptions, check_timed, is_hosted, runs_here

__all__ = ["SPEC"]

# Importing coremltools logs a line for each part of Core ML that a system without it lacks, and
# one about a PyTorch newer than it knows; nothing here goes through PyTorch.
_NOISE = ("Failed to load _ML", "Torch version")
logging.getLogger("coremltools").addFilter(
    lambda record: not record.getMessage().startswith(_NOISE)
)

SPEC = BackendSpec(
    name="coreml",
    location=f"{__name__}.backend:CoreMLBackend",
    title="Core ML",
    options=CoreMLOptions,
    rank=20,
    parameters=frozenset({"seed", "feedback", "strength", "steps", "control"}),
    package="coremltools",
    hosted=is_hosted,
    instrument=f"{__name__}.instrument:CoreMLInstrument",
    counts="coremltools",
    doctor=f"{__name__}.doctor:checks",
    programs=f"{__name__}.programs:CoreMLPrograms",
    reference="mlx",
    runs_here=runs_here,
    check_timed=check_timed,
)
