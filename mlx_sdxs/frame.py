"""The whole frame: uint8 picture and prompt in, uint8 picture out, as one function.

z = encode(picture); x_t = sqrt(a) z + sqrt(1-a) n; eps = UNet(x_t, t, prompt);
x0 = z + r (n - eps); picture = decode(x0). See `common/schedule.py` for the form of x0.
"""

from dataclasses import dataclass, replace

import mlx.core as mx

from ..common.schedule import OneStep
from .autoencoder_kl import AutoencoderKL
from .conv import fold_convolutions
from .fold import PromptProducts, fold, prompt_products
from .ops import on_gpu
from .taesd import AutoencoderTiny
from .unet import UNet2DConditionModel

Prompt = mx.array | PromptProducts


@dataclass(frozen=True)
class Frame:
    """One diffusion step between two pictures. Pure: the same inputs give the same picture.

    Networks compute in `dtype`; mixing and x0 are float32 whatever it is.
    """

    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    step: OneStep
    scaling_factor: float
    dtype: mx.Dtype
    folded: bool = False

    def fold(self) -> "Frame":
        """Return the frame with its timestep built in, for one size of picture; its networks are changed by this."""
        fold(self.unet, float(self.step.timestep))
        if not on_gpu():
            fold_convolutions(self.unet)
            fold_convolutions(self.vae)
        return replace(self, folded=True)

    def prompt(self, encoder_hidden_states: mx.array) -> Prompt:
        """Make of float32 (1, 77, D) what the other methods take as `prompt`, computed once per prompt."""
        states = encoder_hidden_states.astype(self.dtype)
        return prompt_products(self.unet, states) if self.folded else states

    def __call__(
        self, picture: mx.array, prompt: Prompt, noise: mx.array, previous: mx.array, feedback: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Render one frame; return the picture, uint8 (S, S, 3) RGB, and its x0 for the next one.

        picture: uint8 (S, S, 3) RGB. prompt: as `prompt` returned it. noise, previous: float32
        (1, S/8, S/8, C), `previous` being the last frame's x0. feedback: its share in the latents that
        are noised, float32 scalar; at 0 the last frame makes no difference at all.
        """
        latents = self.encode(picture)
        x0 = self.denoise(latents + feedback * (previous - latents), prompt, noise)
        return self.decode(x0), x0

    def encode(self, picture: mx.array) -> mx.array:
        """uint8 (S, S, 3) -> float32 latents (1, S/8, S/8, C)."""
        image = picture[None].astype(mx.float32) / 127.5 - 1
        return self.vae.encode(image.astype(self.dtype)).astype(mx.float32) * self.scaling_factor

    def denoise(self, latents: mx.array, prompt: Prompt, noise: mx.array) -> mx.array:
        """float32 latents -> x0, float32 of the same shape."""
        step = self.step
        sample = step.sqrt_alpha * latents
        if step.noise_scale:
            noise = step.noise_scale * noise
            sample = sample + step.sqrt_one_minus_alpha * noise
        timestep = None if self.folded else float(step.timestep)
        states = prompt if isinstance(prompt, mx.array) else iter(prompt)
        features = self.unet.features(sample.astype(self.dtype), timestep, states)
        return latents + step.ratio * self._noise_minus_eps(features, noise)

    def decode(self, x0: mx.array) -> mx.array:
        """float32 x0 -> uint8 (S, S, 3)."""
        image = self.vae.decode((x0 / self.scaling_factor).astype(self.dtype)).astype(mx.float32)
        return mx.clip(mx.round((image[0] + 1) * 127.5), 0, 255).astype(mx.uint8)

    def _noise_minus_eps(self, features: mx.array, noise: mx.array) -> mx.array:
        # One convolution over [features, n] with weights [-W | identity] subtracts inside the
        # accumulator. eps rounded to half precision first would carry an error that x0 multiplies
        # by 14.6 (12 times less latent error, measured).
        conv = self.unet.conv_out
        if not self.step.noise_scale:
            return -conv(features).astype(mx.float32)
        channels = noise.shape[-1]
        identity = mx.zeros((channels, 3, 3, channels), dtype=self.dtype)
        identity[:, 1, 1, :] = mx.eye(channels, dtype=self.dtype)
        weight = mx.concatenate([-conv.weight, identity], axis=-1)
        stacked = mx.concatenate([features, noise.astype(self.dtype)], axis=-1)
        return (mx.conv2d(stacked, weight, padding=1) - conv.bias).astype(mx.float32)
