"""The whole frame as one function: uint8 picture and encoder_hidden_states in, uint8 picture out.

    z = encode(picture)                           latents
    x_t = sqrt(a) z + sqrt(1 - a) n               sample, n the noise
    eps = UNet(x_t, t, encoder_hidden_states)
    x0 = z + r (n - eps)
    picture = decode(x0)

`common/backend/schedule.py` derives the form of x0 and of several steps.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import mlx.core as mx

from ..common.backend.schedule import OneStep
from .fast.conv import fold_convolutions
from .fast.fold import PromptProducts, fold, prompt_products
from .fast.ops import on_gpu
from .networks.autoencoder_kl import AutoencoderKL
from .networks.controlnet import ControlNetModel
from .networks.taesd import AutoencoderTiny
from .networks.unet import UNet2DConditionModel

EncoderHiddenStates: TypeAlias = mx.array | PromptProducts


@dataclass(frozen=True)
class Frame:
    """One or a few diffusion steps between two pictures.

    A pure function: equal inputs give equal pictures. Networks compute in `dtype`; mixing and x0
    are always float32.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    steps: tuple[OneStep, ...]
    scaling_factor: float
    dtype: mx.Dtype
    folded: bool = False
    controlnet: ControlNetModel | None = None
    last_weight: mx.array | None = None  # of `_noise_minus_eps`, after folding

    @property
    def networks(self) -> list[UNet2DConditionModel | ControlNetModel]:
        """Return the networks that read encoder_hidden_states, in the order of their use."""
        return [self.controlnet, self.unet] if self.controlnet else [self.unet]

    def fold(self, prompt: bool = False) -> "Frame":
        """Return the frame with its timestep folded, for one picture size; changes its networks.

        For one step only. prompt: also fold cross-attention into `fold.PromptAttention`.
        """
        (step,) = self.steps
        for network in self.networks:
            fold(network, float(step.timestep), prompt)
        if not on_gpu():
            for network in (*self.networks, self.vae):
                fold_convolutions(network)
        weight = self._last_weight() if step.noise_scale else None
        if weight is not None:
            mx.eval(weight)
        return replace(self, folded=True, last_weight=weight)

    def prompt(self, encoder_hidden_states: mx.array) -> EncoderHiddenStates:
        """Prepare encoder_hidden_states, float32 (1, 77, D), once per prompt."""
        encoder_hidden_states = encoder_hidden_states.astype(self.dtype)
        if not self.folded:
            return encoder_hidden_states
        return [
            product
            for network in self.networks
            for product in prompt_products(network, encoder_hidden_states)
        ]

    def __call__(
        self,
        picture: mx.array,
        encoder_hidden_states: EncoderHiddenStates,
        noise: mx.array,
        previous: mx.array,
        feedback: mx.array,
        edges: mx.array | None = None,
        scale: mx.array | None = None,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Render one frame or a batch; return the uint8 picture, its x0 and a mean.

        x0 is for the next frame. The mean, float32 (B,), is that of x0 plus that of the picture
        before it is clipped: not finite if one of their values is not.

        picture: uint8 (H, W, 3) RGB, or a batch (B, H, W, 3) with equal other inputs.
        encoder_hidden_states: from `prompt`. noise: float32 (1, H/8, W/8, C). previous: x0 of the
        last frame, of the same shape; one that is not finite counts as none. feedback: share of
        `previous` in the latents, float32 scalar; at 0 the last frame has no influence. edges:
        input of the ControlNet, uint8 (H, W) or (B, H, W), white on black. scale: control scale,
        float32 scalar. Both need a ControlNet.
        """
        latents = self.encode(picture)
        # a maximum or a ReLU may drop NaN, a mean keeps it
        previous = mx.where(mx.isfinite(previous.mean()), previous, latents)
        x0 = self.denoise(
            latents + feedback * (previous - latents), encoder_hidden_states, noise, edges, scale
        )
        image = self._image(x0)
        mean = x0.mean(axis=(1, 2, 3)) + image.mean(axis=(1, 2, 3))
        return _levels(image).reshape(picture.shape), x0, mean

    def encode(self, picture: mx.array) -> mx.array:
        """Encode uint8 (H, W, 3) or (B, H, W, 3) to scaled latents, float32 (B, H/8, W/8, C)."""
        image = picture.reshape(-1, *picture.shape[-3:]).astype(mx.float32) / 127.5 - 1
        return self.vae.encode(image.astype(self.dtype)).astype(mx.float32) * self.scaling_factor

    def without_control(self) -> "Frame":
        """Return the frame without its ControlNet: equal to control scale 0, with less work."""
        return replace(self, controlnet=None)

    def denoise(
        self,
        latents: mx.array,
        encoder_hidden_states: EncoderHiddenStates,
        noise: mx.array,
        edges: mx.array | None = None,
        scale: mx.array | None = None,
    ) -> mx.array:
        """Denoise latents (B, H/8, W/8, C) to x0 of the same shape, both float32."""
        rest: mx.array | None = (
            self.steps[0].noise_scale * noise if self.steps[0].noise_scale else None
        )
        for step in self.steps:
            sample = step.sqrt_alpha * latents
            if rest is not None:
                sample = sample + step.sqrt_one_minus_alpha * rest
            timestep = None if self.folded else float(step.timestep)
            hidden_states = (
                encoder_hidden_states
                if isinstance(encoder_hidden_states, mx.array)
                else iter(encoder_hidden_states)
            )
            sample = sample.astype(self.dtype)
            residuals = None
            if self.controlnet is not None and edges is not None and scale is not None:
                drawn = (edges.reshape(-1, *edges.shape[-2:], 1).astype(mx.float32) / 255).astype(
                    self.dtype
                )
                condition = mx.broadcast_to(drawn, (*drawn.shape[:-1], 3))
                residuals = self.controlnet(sample, timestep, hidden_states, condition, scale)
            features = self.unet.features(sample, timestep, hidden_states, residuals)
            difference = self._noise_minus_eps(features, rest)
            latents = latents + step.ratio * difference
            rest = -difference if rest is None else rest - difference
        return latents

    def decode(self, x0: mx.array) -> mx.array:
        """Decode x0, float32 (B, H/8, W/8, C), to pictures, uint8 (B, H, W, 3)."""
        return _levels(self._image(x0))

    def _image(self, x0: mx.array) -> mx.array:
        """Decode x0 to images in about [-1, 1], float32 (B, H, W, 3)."""
        decoded = self.vae.decode((x0 / self.scaling_factor).astype(self.dtype))
        return decoded.astype(mx.float32)

    def _noise_minus_eps(self, features: mx.array, noise: mx.array | None) -> mx.array:
        # One convolution over [features, n] with weights [-W | identity] subtracts in the
        # accumulator. x0 multiplies the error of a rounded eps by 14.6; measured, the latent error
        # is 12 times less.
        conv = self.unet.conv_out
        if noise is None:
            return -conv(features).astype(mx.float32)
        weight = self._last_weight() if self.last_weight is None else self.last_weight
        noise = mx.broadcast_to(noise.astype(self.dtype), (*features.shape[:-1], noise.shape[-1]))
        stacked = mx.concatenate([features, noise], axis=-1)
        return (mx.conv2d(stacked, weight, padding=1) - conv.bias).astype(mx.float32)

    def _last_weight(self) -> mx.array:
        weight = self.unet.conv_out.weight
        channels = weight.shape[0]
        identity = mx.zeros((channels, 3, 3, channels), dtype=self.dtype)
        identity[:, 1, 1, :] = mx.eye(channels, dtype=self.dtype)
        return mx.concatenate([-weight, identity], axis=-1)


def _levels(image: mx.array) -> mx.array:
    """Convert an image in [-1, 1] to uint8."""
    return mx.clip(mx.round((image + 1) * 127.5), 0, 255).astype(mx.uint8)
