"""SDXS as Core AI programs, on Apple's runtime: its framework on macOS 27, its package elsewhere.

On macOS 26 and on Linux the package's own runtime computes on one CPU core: right, and no measure
of speed.
"""

from ..common.backend.compile_cache import programs as compile_cache
from ..common.backend.spec import BackendSpec
from .options import CoreAIOptions, check_timed, has_framework, is_hosted

__all__ = ["SPEC"]

SPEC = BackendSpec(
    name="coreai",
    location=f"{__name__}.backend:CoreAIBackend",
    title="Core AI",
    options=CoreAIOptions,
    rank=15,
    parameters=frozenset({"seed", "feedback", "strength", "steps", "control", "lora"}),
    package="coreai-core",
    hosted=is_hosted,
    doctor=f"{__name__}.doctor:checks",
    programs=f"{__name__}.programs:CoreAIPrograms",
    reference="mlx",
    runs_here=has_framework,
    check_timed=check_timed,
    compile_cache=compile_cache,
)
