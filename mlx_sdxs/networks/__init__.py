"""The networks in MLX; attribute trees equal the checkpoint's keys, so weights load strictly."""
