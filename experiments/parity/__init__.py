"""Parity with diffusers and transformers, and the fixtures that tests compare with."""

from ...common.backend.spec import specs

specs()  # before MLX and OpenCV: a backend's package loads MLX's BLAS
