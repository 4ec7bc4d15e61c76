"""The whole frame: uint8 picture and prompt in, uint8 picture out, as one function.

z = encode(picture); x_t = sqrt(a) z + sqrt(1-a) n; eps = UNet(x_t, t, prompt); x0 = z + r (n -
eps); picture = decode(x0). See `common/backend/schedule.py` for the form of x0 and for several
steps.
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

Prompt: TypeAlias = mx.array | PromptProducts


@dataclass(frozen=True)
class Frame:
    """One diffusion step, or a few, between two pictures. Pure: the same inputs give the same
    picture.

    Networks compute in `dtype`; mixing and x0 are float32 whatever it is.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    steps: tuple[OneStep, ...]
    scaling_factor: float
    dtype: mx.Dtype
    folded: bool = False
    controlnet: ControlNetModel | None = None
    last_weight: mx.array | None = None  # of `_noise_minus_eps`, once it is folded

    @property
    def networks(self) -> list[UNet2DConditionModel | ControlNetModel]:
        """What looks at the prompt, in the order in which a frame does."""
        return [self.controlnet, self.unet] if self.controlnet else [self.unet]

    def fold(self, prompt: bool = False) -> "Frame":
        """Return the frame with its timestep built in, for one size of picture; its networks are
        changed by this.

        For one step only. prompt: whether cross-attention is folded, see `fold.PromptAttention`.
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

    def prompt(self, encoder_hidden_states: mx.array) -> Prompt:
        """Make of float32 (1, 77, D) what the other methods take as `prompt`, computed once per
        prompt.
        """
        states = encoder_hidden_states.astype(self.dtype)
        if not self.folded:
            return states
        return [
            product for network in self.networks for product in prompt_products(network, states)
        ]

    def __call__(
        self,
        picture: mx.array,
        prompt: Prompt,
        noise: mx.array,
        previous: mx.array,
        feedback: mx.array,
        edges: mx.array | None = None,
        scale: mx.array | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Render one frame, or some at once; return the picture, uint8 as it was given, and its x0
        for the next one.

        picture: uint8 (S, S, 3) RGB, or (B, S, S, 3), all under one prompt, noise and control.
        prompt: as `prompt` returned it. noise, previous: float32 (1, S/8, S/8, C), `previous`
        being the last frame's x0. feedback: its share in the latents that are noised, float32
        scalar; at 0 the last frame makes no difference at all. edges, scale: what the ControlNet
        reads, uint8 (S, S) or (B, S, S), white on black, and its strength, float32 scalar; with
        one only.
        """
        latents = self.encode(picture)
        x0 = self.denoise(latents + feedback * (previous - latents), prompt, noise, edges, scale)
        return self.decode(x0).reshape(picture.shape), x0

    def encode(self, picture: mx.array) -> mx.array:
        """uint8 (S, S, 3) or (B, S, S, 3) -> float32 latents (B, S/8, S/8, C)."""
        image = picture.reshape(-1, *picture.shape[-3:]).astype(mx.float32) / 127.5 - 1
        return self.vae.encode(image.astype(self.dtype)).astype(mx.float32) * self.scaling_factor

    def without_control(self) -> "Frame":
        """The same frame, same weights, without its ControlNet: what a control of scale 0 would
        give, for less.
        """
        return replace(self, controlnet=None)

    def denoise(
        self,
        latents: mx.array,
        prompt: Prompt,
        noise: mx.array,
        edges: mx.array | None = None,
        scale: mx.array | None = None,
    ) -> mx.array:
        """float32 latents -> x0, float32 of the same shape."""
        rest: mx.array | None = (
            self.steps[0].noise_scale * noise if self.steps[0].noise_scale else None
        )
        for step in self.steps:
            sample = step.sqrt_alpha * latents
            if rest is not None:
                sample = sample + step.sqrt_one_minus_alpha * rest
            timestep = None if self.folded else float(step.timestep)
            states = prompt if isinstance(prompt, mx.array) else iter(prompt)
            sample = sample.astype(self.dtype)
            residuals = None
            if self.controlnet is not None and edges is not None and scale is not None:
                drawn = (edges.reshape(-1, *edges.shape[-2:], 1).astype(mx.float32) / 255).astype(
                    self.dtype
                )
                condition = mx.broadcast_to(drawn, (*drawn.shape[:-1], 3))
                residuals = self.controlnet(sample, timestep, states, condition, scale)
            features = self.unet.features(sample, timestep, states, residuals)
            difference = self._noise_minus_eps(features, rest)
            latents = latents + step.ratio * difference
            rest = -difference if rest is None else rest - difference
        return latents

    def decode(self, x0: mx.array) -> mx.array:
        """float32 x0 -> uint8 (B, S, S, 3)."""
        image = self.vae.decode((x0 / self.scaling_factor).astype(self.dtype)).astype(mx.float32)
        return mx.clip(mx.round((image + 1) * 127.5), 0, 255).astype(mx.uint8)

    def _noise_minus_eps(self, features: mx.array, noise: mx.array | None) -> mx.array:
        # One convolution over [features, n] with weights [-W | identity] subtracts inside the
        # accumulator. eps rounded to half precision first would carry an error that x0 multiplies
        # by 14.6 (12 times less latent error, measured).
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
