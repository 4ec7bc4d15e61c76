"""AutoencoderTiny (TAESD) in MIL: the twin of `mlx_sdxs/networks/taesd.py`.

Pictures are in [-1, 1], as in diffusers; the network itself works in [0, 1].
"""

from collections.abc import Callable

import numpy as np

from ...common.checkpoint.config.vae import TinyVAEConfig
from .ops import Var, Weights, affine, conv, mb, upsample

Layer = Callable[[Var], Var]


class Conv:
    def __init__(self, weights: Weights, stride: int = 1) -> None:
        self.weights = weights
        self.stride = stride

    def __call__(self, x: Var) -> Var:
        return conv(x=x, weights=self.weights, stride=self.stride, pad=(1, 1, 1, 1))


class Block:
    """AutoencoderTinyBlock of equal widths: three convolutions, a skip and a ReLU."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights["conv"]

    def __call__(self, x: Var) -> Var:
        h = x
        for i in (0, 2):
            h = mb.relu(x=conv(x=h, weights=self.weights[i]))
        return mb.relu(x=mb.add(x=conv(x=h, weights=self.weights[4]), y=x))


class Double:
    """Nearest-neighbour upsampling by two; a layer without tensors, counted in the keys."""

    def __call__(self, x: Var) -> Var:
        return upsample(x=x)


class ReLU:
    """The activation; a layer without tensors, counted in the keys."""

    def __call__(self, x: Var) -> Var:
        return mb.relu(x=x)


class Layers:
    """A chain of layers; the index of a layer is its name in the checkpoint."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights["layers"]
        self.layers: list[Layer] = []

    @property
    def next(self) -> Weights:
        """Return the tensors of the next layer to append."""
        return self.weights[len(self.layers)]

    def __call__(self, x: Var) -> Var:
        for layer in self.layers:
            x = layer(x)
        return x


def _encoder(config: TinyVAEConfig, weights: Weights) -> Layers:
    chain = Layers(weights)
    for stage, count in enumerate(config.num_encoder_blocks):
        chain.layers.append(Conv(chain.next, stride=1 if stage == 0 else 2))
        for _ in range(count):
            chain.layers.append(Block(chain.next))
    chain.layers.append(Conv(chain.next))
    return chain


def _decoder(config: TinyVAEConfig, weights: Weights) -> Layers:
    chain, last = Layers(weights), len(config.num_decoder_blocks) - 1
    chain.layers.append(Conv(chain.next))
    chain.layers.append(ReLU())
    for stage, count in enumerate(config.num_decoder_blocks):
        for _ in range(count):
            chain.layers.append(Block(chain.next))
        if stage < last:
            chain.layers.append(Double())
        chain.layers.append(Conv(chain.next))
    return chain


class AutoencoderTiny:
    def __init__(self, config: TinyVAEConfig, weights: Weights) -> None:
        self.encoder = _encoder(config, weights["encoder"])
        self.decoder = _decoder(config, weights["decoder"])

    def encode(self, image: Var) -> Var:
        """Encode a picture to its unscaled latents.

        image: (1, 3, H, W) in [-1, 1]. Returns (1, latent_channels, H/8, W/8).
        """
        return self.encoder(affine(x=image, scale=0.5, offset=0.5))

    def decode(self, latents: Var) -> Var:
        """Decode unscaled latents to a picture in about [-1, 1], not clipped."""
        # divide, do not multiply: 1 / 3 is off by 2e-4 in float16
        bounded = affine(x=mb.tanh(x=mb.real_div(x=latents, y=np.float16(3))), scale=3)
        return affine(x=self.decoder(bounded), scale=2, offset=-1)
