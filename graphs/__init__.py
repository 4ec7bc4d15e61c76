"""The networks and the frame as graphs, written once for every format; keys are the checkpoint's.

The twins of `mlx_sdxs.networks`. They know `common` only: a format implements `ops.Ops`.
"""
