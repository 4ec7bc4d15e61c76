"""Parity with diffusers and transformers, and the fixtures that tests compare with."""

import os

from ...common.backend.spec import specs

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # on an M5, MLX's float32 is TF32 by default
specs()  # before MLX and OpenCV: a backend's package loads MLX's BLAS
