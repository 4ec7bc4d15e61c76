"""AutoencoderTiny (TAESD) as a graph: the twin of `mlx_sdxs/networks/taesd.py`.

Pictures are in [-1, 1], as in diffusers; the network itself works in [0, 1].
"""

from collections.abc import Callable

from ..common.checkpoint.config.vae import TinyVAEConfig
from .ops import Ops, Tensor
from .weights import Weights

Layer = Callable[[Tensor], Tensor]


class Conv:
    def __init__(self, ops: Ops, weights: Weights, stride: int = 1) -> None:
        self.ops = ops
        self.weights = weights
        self.stride = stride

    def __call__(self, x: Tensor) -> Tensor:
        return self.ops.conv(x, self.weights, stride=self.stride, pad=(1, 1, 1, 1))


class Block:
    """AutoencoderTinyBlock of equal widths: three convolutions, a skip and a ReLU."""

    def __init__(self, ops: Ops, weights: Weights) -> None:
        self.ops = ops
        self.weights = weights["conv"]

    def __call__(self, x: Tensor) -> Tensor:
        ops, h = self.ops, x
        for i in (0, 2):
            h = ops.relu(ops.conv(h, self.weights[i]))
        return ops.relu(ops.add(ops.conv(h, self.weights[4]), x))


class Layers:
    """A chain of layers; the index of a layer is its name in the checkpoint.

    ReLU and upsampling are layers without tensors, and counted.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights["layers"]
        self.layers: list[Layer] = []

    @property
    def next(self) -> Weights:
        """Return the tensors of the next layer to append."""
        return self.weights[len(self.layers)]

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _encoder(ops: Ops, config: TinyVAEConfig, weights: Weights) -> Layers:
    chain = Layers(weights)
    for stage, count in enumerate(config.num_encoder_blocks):
        chain.layers.append(Conv(ops, chain.next, stride=1 if stage == 0 else 2))
        for _ in range(count):
            chain.layers.append(Block(ops, chain.next))
    chain.layers.append(Conv(ops, chain.next))
    return chain


def _decoder(ops: Ops, config: TinyVAEConfig, weights: Weights) -> Layers:
    chain, last = Layers(weights), len(config.num_decoder_blocks) - 1
    chain.layers.append(Conv(ops, chain.next))
    chain.layers.append(ops.relu)
    for stage, count in enumerate(config.num_decoder_blocks):
        for _ in range(count):
            chain.layers.append(Block(ops, chain.next))
        if stage < last:
            chain.layers.append(ops.upsample)
        chain.layers.append(Conv(ops, chain.next))
    return chain


class AutoencoderTiny:
    def __init__(self, ops: Ops, config: TinyVAEConfig, weights: Weights) -> None:
        self.ops = ops
        self.encoder = _encoder(ops, config, weights["encoder"])
        self.decoder = _decoder(ops, config, weights["decoder"])

    def encode(self, image: Tensor) -> Tensor:
        """Encode a picture to its unscaled latents.

        image: (1, 3, H, W) in [-1, 1]. Returns (1, latent_channels, H/8, W/8).
        """
        return self.encoder(self.ops.affine(image, scale=0.5, offset=0.5))

    def decode(self, latents: Tensor) -> Tensor:
        """Decode unscaled latents to a picture in about [-1, 1], not clipped."""
        ops = self.ops
        bounded = ops.affine(ops.tanh(ops.divide(latents, 3)), scale=3)
        return ops.affine(self.decoder(bounded), scale=2, offset=-1)
