"""The networks in MIL, twins of `mlx_sdxs.networks`; keys are the checkpoint's."""
