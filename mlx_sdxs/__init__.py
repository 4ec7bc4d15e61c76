"""SDXS in MLX. Importing the package puts a real BLAS in place before MLX is first loaded."""

from . import blas

blas.load()
