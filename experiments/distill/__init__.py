"""Train the demo checkpoint from photographs and ten OpenCV renderings of each."""

from ...common.backend.spec import specs

specs()  # before MLX and OpenCV: a backend's package loads MLX's BLAS
