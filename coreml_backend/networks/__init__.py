"""The networks as MIL operations, twins of `mlx_sdxs.networks`."""
