"""Train the demo checkpoint: photographs and ten OpenCV renderings in, a checkpoint in the
diffusers layout out.
"""

from ...common.backend.spec import specs

specs()  # before MLX and OpenCV: a backend's package loads MLX's BLAS
