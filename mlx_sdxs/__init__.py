"""SDXS in MLX. Importing the package puts a real BLAS in place before MLX is first loaded."""

import os

from . import blas

blas.load()
# Read by MLX's CUDA build when it starts: capturing every frame into a CUDA graph takes the host
# nearly twice as long as launching its operations (H200, 15.2 against 10.8 ms a frame), and
# crashed once with several threads.
os.environ.setdefault("MLX_USE_CUDA_GRAPHS", "0")
