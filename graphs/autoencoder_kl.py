"""AutoencoderKL in MIL: the twin of `mlx_sdxs/networks/autoencoder_kl.py`.

`encode` returns the mean of the posterior, without sampling noise, which would flicker.
"""

from ...common.checkpoint.config.vae import KLVAEConfig
from .ops import (
    AttentionForm,
    Downsample,
    Resnet,
    Upsample,
    Var,
    Weights,
    attention,
    conv,
    from_tokens,
    group_norm,
    linear,
    mb,
    silu,
    to_tokens,
)

NORM_EPS = 1e-6  # eps of every GroupNorm of this VAE in diffusers


class Attention:
    """Self-attention over all positions with one head and its own norm, (1, C, H, W) in and out.

    Never 'sdpa': with a head as wide as this one (512), Core ML's was reported to crash on the CPU
    and to leave the Neural Engine (stablehlo-coreml#89).
    """

    def __init__(self, weights: Weights, groups: int, form: AttentionForm) -> None:
        self.weights = weights
        self.groups = groups
        self.form: AttentionForm = "matmul" if form == "sdpa" else form

    def __call__(self, x: Var) -> Var:
        w = self.weights
        h = to_tokens(
            x=group_norm(x=x, weights=w["group_norm"], groups=self.groups, eps=NORM_EPS),
            form=self.form,
        )
        query, key, value = (linear(x=h, weights=w[name]) for name in ("to_q", "to_k", "to_v"))
        y = attention(query=query, key=key, value=value, heads=1, form=self.form)
        return mb.add(x=x, y=from_tokens(x=linear(x=y, weights=w["to_out"][0]), shape=x.shape))


class MidBlock:
    def __init__(self, config: KLVAEConfig, weights: Weights, form: AttentionForm) -> None:
        self.resnets = [
            Resnet(weights["resnets"][i], config.norm_num_groups, NORM_EPS) for i in range(2)
        ]
        self.attentions = [Attention(weights["attentions"][0], config.norm_num_groups, form)]
        self.add_attention = config.mid_block_add_attention

    def __call__(self, x: Var) -> Var:
        x = self.resnets[0](x)
        if self.add_attention:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class Stage:
    """Resnets at one resolution, then an optional down- or upsampling."""

    def __init__(self, weights: Weights, count: int, groups: int) -> None:
        self.resnets = [Resnet(weights["resnets"][j], groups, NORM_EPS) for j in range(count)]
        self.resize: Downsample | Upsample | None = None

    def __call__(self, x: Var) -> Var:
        for resnet in self.resnets:
            x = resnet(x)
        return self.resize(x) if self.resize else x


class Encoder:
    def __init__(self, config: KLVAEConfig, weights: Weights, form: AttentionForm) -> None:
        blocks, self.groups = weights["down_blocks"], config.norm_num_groups
        self.weights = weights
        self.down_blocks = [
            Stage(blocks[i], config.layers_per_block, self.groups)
            for i in range(len(config.block_out_channels))
        ]
        for i, stage in enumerate(self.down_blocks[:-1]):
            stage.resize = Downsample(blocks[i]["downsamplers"][0], symmetric=False)
        self.mid_block = MidBlock(config, weights["mid_block"], form)

    def __call__(self, x: Var) -> Var:
        w = self.weights
        x = conv(x=x, weights=w["conv_in"])
        for stage in self.down_blocks:
            x = stage(x)
        x = group_norm(
            x=self.mid_block(x), weights=w["conv_norm_out"], groups=self.groups, eps=NORM_EPS
        )
        return conv(x=silu(x=x), weights=w["conv_out"])


class Decoder:
    def __init__(self, config: KLVAEConfig, weights: Weights, form: AttentionForm) -> None:
        blocks, self.groups = weights["up_blocks"], config.norm_num_groups
        self.weights = weights
        self.mid_block = MidBlock(config, weights["mid_block"], form)
        self.up_blocks = [
            Stage(blocks[i], config.layers_per_block + 1, self.groups)
            for i in range(len(config.block_out_channels))
        ]
        for i, stage in enumerate(self.up_blocks[:-1]):
            stage.resize = Upsample(blocks[i]["upsamplers"][0])

    def __call__(self, x: Var) -> Var:
        w = self.weights
        x = self.mid_block(conv(x=x, weights=w["conv_in"]))
        for stage in self.up_blocks:
            x = stage(x)
        x = group_norm(x=x, weights=w["conv_norm_out"], groups=self.groups, eps=NORM_EPS)
        return conv(x=silu(x=x), weights=w["conv_out"])


class AutoencoderKL:
    def __init__(self, config: KLVAEConfig, weights: Weights, form: AttentionForm) -> None:
        self.config = config
        self.weights = weights
        self.encoder = Encoder(config, weights["encoder"], form)
        self.decoder = Decoder(config, weights["decoder"], form)

    def encode(self, image: Var) -> Var:
        """Encode a picture to the mean of its unscaled latents.

        image: (1, 3, H, W) in [-1, 1]. Returns (1, latent_channels, H/8, W/8).
        """
        moments = self.encoder(image)
        if self.config.use_quant_conv:
            moments = conv(x=moments, weights=self.weights["quant_conv"])
        mean, _ = mb.split(x=moments, num_splits=2, axis=1)
        return mean

    def decode(self, latents: Var) -> Var:
        """Decode unscaled latents to a picture in about [-1, 1], not clipped."""
        if self.config.use_post_quant_conv:
            latents = conv(x=latents, weights=self.weights["post_quant_conv"])
        return self.decoder(latents)
