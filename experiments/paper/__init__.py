"""The paper's systems, rebuilt."""

from ...common.backend.spec import specs

specs()  # before MLX and OpenCV: a backend's package loads MLX's BLAS
