"""A checkpoint's networks as diffusers opens them, and arrays on their way to torch and back."""

import json

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file

from ...common.checkpoint.config.vae import TinyVAEConfig
from ...common.checkpoint.find import Checkpoint


def to_torch(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """(B, H, W, C) NumPy -> (B, C, H, W) torch."""
    return torch.from_numpy(array).movedim(-1, 1).to(dtype)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """(B, C, H, W) torch -> (B, H, W, C) NumPy."""
    return np.ascontiguousarray(tensor.movedim(1, -1).numpy())


def dtype_of(exact: bool) -> torch.dtype:
    """Return the dtype of a reference: float64 where `exact`, else float32."""
    return torch.float64 if exact else torch.float32


def open_unet(checkpoint: Checkpoint, exact: bool) -> UNet2DConditionModel:
    """Open a checkpoint's UNet; float64 if `exact`, else float32."""
    return (
        UNet2DConditionModel.from_pretrained(checkpoint.folder / "unet").eval().to(dtype_of(exact))
    )


def open_vae(checkpoint: Checkpoint, exact: bool) -> AutoencoderTiny | AutoencoderKL:
    """Open a checkpoint's VAE, tiny or full; float64 if `exact`, else float32."""
    kind = AutoencoderTiny if isinstance(checkpoint.vae, TinyVAEConfig) else AutoencoderKL
    return (
        kind.from_pretrained(checkpoint.folder / checkpoint.vae_folder).eval().to(dtype_of(exact))
    )


def open_controlnet(checkpoint: Checkpoint, exact: bool) -> ControlNetModel:
    """Open a checkpoint's ControlNet; float64 if `exact`, else float32.

    diffusers' constructor refuses one without a mid block, which its `forward` can run: there the
    mid block is taken out afterwards, and the weights must fit what is left.
    """
    assert checkpoint.control is not None
    folder = checkpoint.control.folder
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["mid_block_type"] is not None:
        controlnet = ControlNetModel.from_pretrained(folder)
    else:
        controlnet = ControlNetModel.from_config(config | {"mid_block_type": "UNetMidBlock2D"})
        controlnet.mid_block = None
        controlnet.load_state_dict(load_file(checkpoint.control.weights), strict=True)
    return controlnet.eval().to(dtype_of(exact))


def encode(vae: AutoencoderTiny | AutoencoderKL, picture: torch.Tensor) -> torch.Tensor:
    """Return the latents of a picture, (B, 3, H, W) in [-1, 1]; the mean of a full VAE."""
    encoded = vae.encode(picture)
    return encoded.latents if isinstance(vae, AutoencoderTiny) else encoded.latent_dist.mode()


def spread(vae: AutoencoderTiny, latents: torch.Tensor) -> None:
    """Rescale the last convolution so that the pictures of such latents, (B, C, h, w), fill [0, 1].

    TAESD has no norm, and saturation hides errors.
    """
    last = vae.decoder.layers[-1]
    with torch.no_grad():
        values = (vae.decode(latents).sample + 1) / 2
        scale = 0.2 / values.std(dim=(0, 2, 3))
        last.weight *= scale[:, None, None, None]
        last.bias.copy_((last.bias - values.mean(dim=(0, 2, 3))) * scale + 0.5)
