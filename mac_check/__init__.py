"""`sdxs mac-check`: what only a Mac can tell, asked once and written down."""

import os

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # on an M5, MLX's float32 is TF32 by default
