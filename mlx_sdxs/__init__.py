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
