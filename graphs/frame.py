"""One frame as a graph, picture to picture: the twin of `mlx_sdxs.frame.Frame`.

Networks compute in the dtype of `Ops`; mixing, x0 and pictures are float32, with casts between. In
the form of the Neural Engine ('split_einsum'), pictures are in the dtype of the networks as well:
the Neural Engine leaves a float32 operation to the CPU, and whole numbers up to 255 are exact in
float16.
"""

from dataclasses import dataclass

import numpy as np

from ..common.backend.schedule import OneStep, one_step
from ..common.checkpoint.config.vae import TinyVAEConfig
from ..common.checkpoint.find import Checkpoint
from .autoencoder_kl import AutoencoderKL
from .controlnet import ControlNetModel
from .ops import Ops, Tensor
from .taesd import AutoencoderTiny
from .unet import UNet2DConditionModel
from .weights import Weights


@dataclass(frozen=True)
class Frame:
    """One diffusion step between two pictures. Its outputs are named for the program."""

    ops: Ops
    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    step: OneStep
    scaling_factor: float
    controlnet: ControlNetModel | None = None

    @property
    def _half_pictures(self) -> bool:
        return self.ops.form == "split_einsum"

    def encode(self, picture: Tensor) -> Tensor:
        """Encode float32 (1, 3, H, W) in 0..255 to scaled latents, float32 (1, C, H/8, W/8)."""
        ops = self.ops
        if self._half_pictures:
            latents = self.vae.encode(ops.affine(ops.lower(picture), scale=1 / 127.5, offset=-1))
            return ops.to_float32(ops.affine(latents, scale=self.scaling_factor), name="latents")
        image = ops.lower(ops.affine(picture, scale=1 / 127.5, offset=-1))
        latents = ops.to_float32(self.vae.encode(image))
        return ops.mul(latents, np.float32(self.scaling_factor), name="latents")

    def denoise(
        self,
        latents: Tensor,
        encoder_hidden_states: Tensor,
        noise: Tensor | np.ndarray,
        previous: Tensor,
        feedback: Tensor,
        edges: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Denoise latents (1, C, H/8, W/8) to x0 of the same shape, both float32.

        previous: x0 of the last frame. feedback: share of `previous` in the latents, (1,). edges:
        input of the ControlNet, float32 (1, 1, H, W) in 0..255. scale: control scale, (1,).
        """
        ops, step = self.ops, self.step
        latents = ops.add(latents, ops.mul(feedback, ops.sub(previous, latents)))
        noise = ops.mul(noise, np.float32(step.noise_scale))
        sample = ops.add(
            ops.affine(latents, scale=step.sqrt_alpha),
            ops.affine(noise, scale=step.sqrt_one_minus_alpha),
        )
        sample, encoder_hidden_states = ops.lower(sample), ops.lower(encoder_hidden_states)
        timestep, residuals = float(step.timestep), None
        if self.controlnet:
            condition = ops.lower(ops.affine(edges, scale=1 / 255))
            residuals = self.controlnet(
                sample, timestep, encoder_hidden_states, condition, ops.lower(scale)
            )
        features = self.unet.features(sample, timestep, encoder_hidden_states, residuals)
        difference = ops.to_float32(self._noise_minus_eps(features, ops.lower(noise)))
        return ops.add(latents, ops.affine(difference, scale=step.ratio), name="x0")

    def decode(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Decode x0, float32 (1, C, H/8, W/8), to the picture and its mean.

        Returns float32 (1, 3, H, W), whole numbers in 0..255, and float32 (1, 1, 1, 1), the mean
        before they are clipped, in about [-1, 1]: not finite if float16 overflowed.
        """
        ops, scale = self.ops, 1 / self.scaling_factor
        if self._half_pictures:
            image = self.vae.decode(ops.affine(ops.lower(x0), scale=scale))
        else:
            image = ops.to_float32(self.vae.decode(ops.lower(ops.affine(x0, scale=scale))))
        names = ("", "") if self._half_pictures else ("image", "image_mean")
        levels = ops.round(ops.affine(ops.affine(image, offset=1), scale=127.5))
        levels = ops.clip(levels, 0, 255, name=names[0])
        # a maximum may drop NaN; axis by axis, no sum leaves float16
        mean = ops.mean(ops.mean(ops.mean(image, 3), 2), 1, name=names[1])
        if self._half_pictures:
            return ops.to_float32(levels, name="image"), ops.to_float32(mean, name="image_mean")
        return levels, mean

    def _noise_minus_eps(self, features: Tensor, noise: Tensor) -> Tensor:
        # One convolution over [features, n] with weights [-W | identity] subtracts in the
        # accumulator; see mlx_sdxs/frame.py. Compression would make the identity inexact.
        ops, layer = self.ops, self.unet.weights["conv_out"]
        kernel = layer.float32("weight")
        identity = np.zeros((kernel.shape[0], kernel.shape[0], 3, 3), np.float32)
        identity[:, :, 1, 1] = np.eye(kernel.shape[0])
        return ops.convolve(
            ops.concat([features, noise]),
            ops.rounded(np.concatenate([-kernel, identity], axis=1), layer.name),
            -layer.float32("bias"),
            (1, 1, 1, 1),
            layer.label,
        )


def frame_of(
    ops: Ops, checkpoint: Checkpoint, unet: Weights, vae: Weights, control: Weights | None = None
) -> Frame:
    """Return the frame of a checkpoint. control: the weights of its ControlNet, to use it."""
    config, network = checkpoint.vae, None
    if control is not None:
        assert checkpoint.control is not None
        network = ControlNetModel(ops, checkpoint.control.config, control)
    return Frame(
        ops=ops,
        unet=UNet2DConditionModel(ops, checkpoint.unet, unet),
        vae=AutoencoderTiny(ops, config, vae)
        if isinstance(config, TinyVAEConfig)
        else AutoencoderKL(ops, config, vae),
        step=one_step(checkpoint.scheduler, checkpoint.frame),
        scaling_factor=config.scaling_factor,
        controlnet=network,
    )
