"""SDXS in MLX. Importing the package puts a real BLAS in place before MLX is first loaded."""

import os

from ..common.backend.spec import BackendSpec
from . import blas
from .options import MlxOptions

__all__ = ["SPEC"]

blas.load()
# Read by MLX's CUDA build when it starts: capturing every frame into a CUDA graph takes the host
# nearly twice as long as launching its operations (H200, 15.2 against 10.8 ms a frame), and
# crashed once with several threads.
os.environ.setdefault("MLX_USE_CUDA_GRAPHS", "0")
# Read by MLX's Metal build: its Winograd form rounds intermediates to float16. Seven convolutions
# of SDXS at 512 would take it: emulated, x0 goes from 1.4e-4 to 3.4e-3, the picture from 64.7 to
# 46.0 dB. Can go when a Mac has timed both and the time is worth it.
os.environ.setdefault("MLX_CONV_WINOGRAD", "0")

SPEC = BackendSpec(
    name="mlx",
    location=f"{__name__}.backend:MlxBackend",
    title="MLX",
    options=MlxOptions,
    rank=30,
    parameters=frozenset({"seed", "feedback", "strength", "steps", "control"}),
    package="mlx",
    instrument=f"{__name__}.instrument:MlxInstrument",
    counts="mlx",
    doctor=f"{__name__}.doctor:checks",
    versions=("mlx-metal", "mlx-cpu", "mlx-cuda-13"),
    environment=("MLX_", "SDXS_BLAS"),
)
