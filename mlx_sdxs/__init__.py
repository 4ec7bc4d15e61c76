"""SDXS in MLX. Importing the package loads an optimised BLAS before MLX."""

import os

from ..common.backend.spec import BackendSpec
from . import blas
from .compiled import compile_cache
from .options import MlxOptions, exact

__all__ = ["SPEC"]

blas.load()
# MLX's CUDA build reads this at start. Capturing each frame into a CUDA graph takes the host longer
# than launching its operations (H200: 15.2 against 10.8 ms a frame), and crashed once with threads.
os.environ.setdefault("MLX_USE_CUDA_GRAPHS", "0")
# MLX's Metal build reads this. Its Winograd form rounds intermediates to float16, in seven
# convolutions of SDXS at 512. Emulated, the error of x0 rises from 1.4e-4 to 3.4e-3 and the picture
# falls from 64.7 to 46.0 dB. Delete if timings on a Mac justify that loss.
os.environ.setdefault("MLX_CONV_WINOGRAD", "0")

SPEC = BackendSpec(
    name="mlx",
    location=f"{__name__}.backend:MlxBackend",
    title="MLX",
    options=MlxOptions,
    rank=30,
    parameters=frozenset(
        {"seed", "feedback", "strength", "steps", "control", "lora", "lora_scale"}
    ),
    package="mlx",
    instrument=f"{__name__}.instrument:MlxInstrument",
    counts="mlx",
    doctor=f"{__name__}.doctor:checks",
    reference="mlx",
    exact=exact,
    exact_environment=(("MLX_ENABLE_TF32", "0"),),
    versions=("mlx-metal", "mlx-cpu", "mlx-cuda-13"),
    environment=("MLX_", "SDXS_BLAS"),
    compile_cache=compile_cache,
    published=(
        "MLX_CONV_WINOGRAD",
        "MLX_ENABLE_TF32",
        "MLX_MAX_MB_PER_BUFFER",
        "MLX_MAX_OPS_PER_BUFFER",
        "MLX_METAL_FAST_SYNCH",
        "MLX_USE_CUDA_GRAPHS",
    ),
)
