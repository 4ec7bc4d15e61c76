"""SDXS as Core ML programs, built straight from safetensors.

Core ML executes them on macOS; the reference interpreter executes them everywhere.
"""

import logging

from ..common.backend.compile_cache import programs as compile_cache
from ..common.backend.spec import BackendSpec
from .options import CoreMLOptions, building, check_timed, is_hosted, runs_here

__all__ = ["SPEC"]

# Importing coremltools logs each part of Core ML that the system lacks, and an unknown version of
# PyTorch, which this package does not use.
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
    parameters=frozenset({"seed", "feedback", "strength", "steps", "control", "lora"}),
    package="coremltools",
    hosted=is_hosted,
    instrument=f"{__name__}.instrument:CoreMLInstrument",
    counts="coremltools",
    doctor=f"{__name__}.doctor:checks",
    programs=f"{__name__}.programs:CoreMLPrograms",
    reference="mlx",
    building=building,
    runs_here=runs_here,
    check_timed=check_timed,
    compile_cache=compile_cache,
)
