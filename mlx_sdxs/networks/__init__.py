"""The networks in MLX, twins of `coreml_backend.networks`; keys are the checkpoint's."""
