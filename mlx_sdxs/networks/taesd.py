"""AutoencoderTiny (TAESD), as in diffusers: a distilled VAE of plain convolutions.

Pictures are in [-1, 1], as in diffusers; the network itself works in [0, 1].
"""

import mlx.core as mx
import mlx.nn as nn

from ...common.checkpoint.config.vae import TinyVAEConfig
from .layers import double


class Block(nn.Module):
    """AutoencoderTinyBlock of equal widths: three convolutions, a skip and a ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = [
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        ]

    def __call__(self, x: mx.array) -> mx.array:
        h = x
        for layer in self.conv:
            h = layer(h)
        return nn.relu(h + x)


class Double(nn.Module):
    """Nearest-neighbour upsampling by two; a layer without tensors, counted in the keys."""

    def __call__(self, x: mx.array) -> mx.array:
        return double(x)


class Layers(nn.Module):
    """A chain of layers; the index of a layer is its name in the checkpoint."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = layers

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        return x


def _encoder(config: TinyVAEConfig) -> Layers:
    width = config.encoder_block_out_channels[0]
    layers: list[nn.Module] = []
    for stage, count in enumerate(config.num_encoder_blocks):
        layers.append(
            nn.Conv2d(3, width, 3, padding=1)
            if stage == 0
            else nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False)
        )
        layers += [Block(width) for _ in range(count)]
    return Layers([*layers, nn.Conv2d(width, config.latent_channels, 3, padding=1)])


def _decoder(config: TinyVAEConfig) -> Layers:
    width, last = config.decoder_block_out_channels[0], len(config.num_decoder_blocks) - 1
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, width, 3, padding=1), nn.ReLU()]
    for stage, count in enumerate(config.num_decoder_blocks):
        layers += [Block(width) for _ in range(count)]
        if stage < last:
            layers += [Double(), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        else:
            layers.append(nn.Conv2d(width, 3, 3, padding=1))
    return Layers(layers)


class AutoencoderTiny(nn.Module):
    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)

    def encode(self, image: mx.array) -> mx.array:
        """Encode a picture to its unscaled latents.

        image: (B, H, W, 3) in [-1, 1]. Returns (B, H/8, W/8, latent_channels).
        """
        return self.encoder((image + 1) / 2)

    def decode(self, latents: mx.array) -> mx.array:
        """Decode unscaled latents to a picture in about [-1, 1], not clipped."""
        return self.decoder(3 * mx.tanh(latents / 3)) * 2 - 1
