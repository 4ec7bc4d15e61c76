"""AutoencoderKL as a graph: the twin of `mlx_sdxs/networks/autoencoder_kl.py`.

`encode` returns the mean of the posterior, without sampling noise, which would flicker.
"""

from ..common.checkpoint.config.vae import KLVAEConfig
from .layers import Downsample, Resnet, Upsample
from .ops import AttentionForm, Ops, Tensor
from .weights import Weights

NORM_EPS = 1e-6  # eps of every GroupNorm of this VAE in diffusers


class Attention:
    """Self-attention over all positions with one head and its own norm, (1, C, H, W) in and out.

    Never 'sdpa': with a head as wide as this one (512), Core ML's was reported to crash on the CPU
    and to leave the Neural Engine (stablehlo-coreml#89).
    """

    def __init__(self, ops: Ops, weights: Weights, groups: int) -> None:
        self.ops = ops
        self.weights = weights
        self.groups = groups
        self.form: AttentionForm = "matmul" if ops.form == "sdpa" else ops.form

    def __call__(self, x: Tensor) -> Tensor:
        ops, w = self.ops, self.weights
        h = ops.to_tokens(ops.group_norm(x, w["group_norm"], self.groups, NORM_EPS), self.form)
        query, key, value = (ops.linear(h, w[name]) for name in ("to_q", "to_k", "to_v"))
        y = ops.attention(query, key, value, heads=1, form=self.form)
        return ops.add(x, ops.from_tokens(ops.linear(y, w["to_out"][0]), x.shape))


class MidBlock:
    def __init__(self, ops: Ops, config: KLVAEConfig, weights: Weights) -> None:
        self.resnets = [
            Resnet(ops, weights["resnets"][i], config.norm_num_groups, NORM_EPS) for i in range(2)
        ]
        self.attentions = [Attention(ops, weights["attentions"][0], config.norm_num_groups)]
        self.add_attention = config.mid_block_add_attention

    def __call__(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        if self.add_attention:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Stage:
    """Resnets at one resolution, then an optional down- or upsampling."""

    def __init__(self, ops: Ops, weights: Weights, count: int, groups: int) -> None:
        self.resnets = [Resnet(ops, weights["resnets"][j], groups, NORM_EPS) for j in range(count)]
        self.resize: Downsample | Upsample | None = None

    def __call__(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return self.resize(x) if self.resize else x


class Encoder:
    def __init__(self, ops: Ops, config: KLVAEConfig, weights: Weights) -> None:
        self.ops = ops
        blocks, self.groups = weights["down_blocks"], config.norm_num_groups
        self.weights = weights
        self.down_blocks = [
            Stage(ops, blocks[i], config.layers_per_block, self.groups)
            for i in range(len(config.block_out_channels))
        ]
        for i, stage in enumerate(self.down_blocks[:-1]):
            stage.resize = Downsample(ops, blocks[i]["downsamplers"][0], symmetric=False)
        self.mid_block = MidBlock(ops, config, weights["mid_block"])

    def __call__(self, x: Tensor) -> Tensor:
        ops, w = self.ops, self.weights
        x = ops.conv(x, w["conv_in"])
        for stage in self.down_blocks:
            x = stage(x)
        x = ops.group_norm(self.mid_block(x), w["conv_norm_out"], self.groups, NORM_EPS)
        return ops.conv(ops.silu(x), w["conv_out"])


class Decoder:
    def __init__(self, ops: Ops, config: KLVAEConfig, weights: Weights) -> None:
        self.ops = ops
        blocks, self.groups = weights["up_blocks"], config.norm_num_groups
        self.weights = weights
        self.mid_block = MidBlock(ops, config, weights["mid_block"])
        self.up_blocks = [
            Stage(ops, blocks[i], config.layers_per_block + 1, self.groups)
            for i in range(len(config.block_out_channels))
        ]
        for i, stage in enumerate(self.up_blocks[:-1]):
            stage.resize = Upsample(ops, blocks[i]["upsamplers"][0])

    def __call__(self, x: Tensor) -> Tensor:
        ops, w = self.ops, self.weights
        x = self.mid_block(ops.conv(x, w["conv_in"]))
        for stage in self.up_blocks:
            x = stage(x)
        x = ops.group_norm(x, w["conv_norm_out"], self.groups, NORM_EPS)
        return ops.conv(ops.silu(x), w["conv_out"])


class AutoencoderKL:
    def __init__(self, ops: Ops, config: KLVAEConfig, weights: Weights) -> None:
        self.ops = ops
        self.config = config
        self.weights = weights
        self.encoder = Encoder(ops, config, weights["encoder"])
        self.decoder = Decoder(ops, config, weights["decoder"])

    def encode(self, image: Tensor) -> Tensor:
        """Encode a picture to the mean of its unscaled latents.

        image: (1, 3, H, W) in [-1, 1]. Returns (1, latent_channels, H/8, W/8).
        """
        moments = self.encoder(image)
        if self.config.use_quant_conv:
            moments = self.ops.conv(moments, self.weights["quant_conv"])
        mean, _ = self.ops.halves(moments)
        return mean

    def decode(self, latents: Tensor) -> Tensor:
        """Decode unscaled latents to a picture in about [-1, 1], not clipped."""
        if self.config.use_post_quant_conv:
            latents = self.ops.conv(latents, self.weights["post_quant_conv"])
        return self.decoder(latents)
