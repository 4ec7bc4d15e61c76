"""AutoencoderKL, as in diffusers: Stable Diffusion's full VAE (SDXS' `vae_large`).

`encode` returns the mean of the posterior, without sampling noise, which would flicker.
"""

import mlx.core as mx
import mlx.nn as nn

from ...common.checkpoint.config.vae import KLVAEConfig
from .layers import Downsample, GroupNorm, Resnet, Upsample

NORM_EPS = 1e-6  # eps of every GroupNorm of this VAE in diffusers


class Attention(nn.Module):
    """Self-attention over all positions with one head and its own norm, (B, H, W, C) in and out."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = [nn.Linear(channels, channels)]

    def __call__(self, x: mx.array) -> mx.array:
        batch, height, width, channels = x.shape
        h = self.group_norm(x).reshape(batch, 1, height * width, channels)
        y = mx.fast.scaled_dot_product_attention(
            self.to_q(h), self.to_k(h), self.to_v(h), scale=channels**-0.5
        )
        return x + self.to_out[0](y).reshape(x.shape)


class MidBlock(nn.Module):
    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[-1], config.norm_num_groups
        self.resnets = [Resnet(channels, channels, groups, NORM_EPS) for _ in range(2)]
        if config.mid_block_add_attention:
            self.attentions = [Attention(channels, groups)]

    def __call__(self, x: mx.array) -> mx.array:
        x = self.resnets[0](x)
        if "attentions" in self:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Stage(nn.Module):
    """Resnets at one resolution, then an optional down- or upsampling."""

    def __init__(self, inputs: int, outputs: int, count: int, groups: int) -> None:
        super().__init__()
        self.resnets = [
            Resnet(inputs if j == 0 else outputs, outputs, groups, NORM_EPS) for j in range(count)
        ]

    def __call__(self, x: mx.array) -> mx.array:
        for resnet in self.resnets:
            x = resnet(x)
        for name in ("downsamplers", "upsamplers"):
            if name in self:
                x = self[name][0](x)
        return x


class Encoder(nn.Module):
    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = [
            Stage(channels[max(i - 1, 0)], outputs, config.layers_per_block, groups)
            for i, outputs in enumerate(channels)
        ]
        for stage, outputs in zip(self.down_blocks[:-1], channels[:-1], strict=True):
            stage.downsamplers = [Downsample(outputs, symmetric=False)]
        self.mid_block = MidBlock(config)
        self.conv_norm_out = GroupNorm(groups, channels[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(self.conv_norm_out.then_silu(self.mid_block(x)))


class Decoder(nn.Module):
    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock(config)
        self.up_blocks = [
            Stage(channels[max(i - 1, 0)], outputs, config.layers_per_block + 1, groups)
            for i, outputs in enumerate(channels)
        ]
        for stage, outputs in zip(self.up_blocks[:-1], channels[:-1], strict=True):
            stage.upsamplers = [Upsample(outputs)]
        self.conv_norm_out = GroupNorm(groups, channels[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.mid_block(self.conv_in(x))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(self.conv_norm_out.then_silu(x))


class AutoencoderKL(nn.Module):
    def __init__(self, config: KLVAEConfig) -> None:
        super().__init__()
        latents = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.use_quant_conv:
            self.quant_conv = nn.Conv2d(2 * latents, 2 * latents, 1)
        if config.use_post_quant_conv:
            self.post_quant_conv = nn.Conv2d(latents, latents, 1)

    def encode(self, image: mx.array) -> mx.array:
        """Encode a picture to the mean of its unscaled latents.

        image: (B, H, W, 3) in [-1, 1]. Returns (B, H/8, W/8, latent_channels).
        """
        moments = self.encoder(image)
        if "quant_conv" in self:
            moments = self.quant_conv(moments)
        return mx.split(moments, 2, axis=-1)[0]

    def decode(self, latents: mx.array) -> mx.array:
        """Decode unscaled latents to a picture in about [-1, 1], not clipped."""
        return self.decoder(self.post_quant_conv(latents) if "post_quant_conv" in self else latents)
