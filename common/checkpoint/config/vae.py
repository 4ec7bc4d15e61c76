"""AutoencoderTiny's and AutoencoderKL's config.json, field names as in diffusers."""

from dataclasses import dataclass
from pathlib import Path

from .fields import MOST_LAYERS, Fields, block_types, read_json


@dataclass(frozen=True, slots=True)
class TinyVAEConfig:
    """Hold `vae/config.json` of diffusers' AutoencoderTiny (TAESD)."""

    encoder_block_out_channels: tuple[int, ...]
    decoder_block_out_channels: tuple[int, ...]
    num_encoder_blocks: tuple[int, ...]
    num_decoder_blocks: tuple[int, ...]
    latent_channels: int
    scaling_factor: float

    @property
    def reduction(self) -> int:
        """Factor by which the latents are smaller than the picture."""
        return 1 << (len(self.num_encoder_blocks) - 1)

    @classmethod
    def parse(cls, fields: Fields) -> "TinyVAEConfig":
        fields.require("act_fn", ("relu",), "relu")
        fields.require("in_channels", (3,), 3)
        fields.require("out_channels", (3,), 3)
        fields.require("upsampling_scaling_factor", (2,), 2)
        fields.require("upsample_fn", ("nearest",), "nearest")
        fields.require("shift_factor", (0, None))
        config = cls(
            encoder_block_out_channels=fields.integers("encoder_block_out_channels", (64,) * 4),
            decoder_block_out_channels=fields.integers("decoder_block_out_channels", (64,) * 4),
            num_encoder_blocks=fields.integers(
                "num_encoder_blocks", (1, 3, 3, 3), minimum=0, most=MOST_LAYERS
            ),
            num_decoder_blocks=fields.integers(
                "num_decoder_blocks", (3, 3, 3, 1), minimum=0, most=MOST_LAYERS
            ),
            latent_channels=fields.integer("latent_channels", 4),
            scaling_factor=fields.positive("scaling_factor", 1.0),
        )
        for key, channels, blocks_key, blocks in (
            (
                "encoder_block_out_channels",
                config.encoder_block_out_channels,
                "num_encoder_blocks",
                config.num_encoder_blocks,
            ),
            (
                "decoder_block_out_channels",
                config.decoder_block_out_channels,
                "num_decoder_blocks",
                config.num_decoder_blocks,
            ),
        ):
            # diffusers' encoder runs only with equally wide stages
            if len(set(channels)) != 1:
                raise fields.fail(key, "the same width in every stage")
            if len(blocks) != len(config.encoder_block_out_channels) or len(blocks) != len(
                channels
            ):
                raise fields.fail(
                    blocks_key,
                    f"{len(channels)} numbers, one for each stage of encoder and decoder",
                )
        return config


@dataclass(frozen=True, slots=True)
class KLVAEConfig:
    """Hold `vae/config.json` of diffusers' AutoencoderKL (Stable Diffusion's full VAE)."""

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    norm_num_groups: int
    scaling_factor: float
    use_quant_conv: bool
    use_post_quant_conv: bool
    mid_block_add_attention: bool

    @property
    def reduction(self) -> int:
        """Factor by which the latents are smaller than the picture."""
        return 1 << (len(self.block_out_channels) - 1)

    @classmethod
    def parse(cls, fields: Fields) -> "KLVAEConfig":
        fields.require("act_fn", ("silu",), "silu")
        fields.require("in_channels", (3,), 3)
        fields.require("out_channels", (3,), 3)
        for key in ("latents_mean", "latents_std"):
            fields.require(key, (None,))
        fields.require("shift_factor", (0, None))
        channels = fields.integers("block_out_channels")
        for key, name in (
            ("down_block_types", "DownEncoderBlock2D"),
            ("up_block_types", "UpDecoderBlock2D"),
        ):
            block_types(fields, key, (name,), len(channels))
        config = cls(
            block_out_channels=channels,
            layers_per_block=fields.integer("layers_per_block", 1, most=MOST_LAYERS),
            latent_channels=fields.integer("latent_channels", 4),
            norm_num_groups=fields.integer("norm_num_groups", 32),
            scaling_factor=fields.positive("scaling_factor", 0.18215),
            use_quant_conv=fields.flag("use_quant_conv", True),
            use_post_quant_conv=fields.flag("use_post_quant_conv", True),
            mid_block_add_attention=fields.flag("mid_block_add_attention", True),
        )
        if any(channel % config.norm_num_groups for channel in channels):
            raise fields.fail("norm_num_groups", f"a divisor of every width in {list(channels)}")
        return config


VAEConfig = TinyVAEConfig | KLVAEConfig


def read_vae_config(path: Path) -> VAEConfig:
    """Read either kind of VAE config; `_class_name` selects the kind."""
    fields = read_json(path)
    fields.require("_class_name", ("AutoencoderTiny", "AutoencoderKL"))
    tiny = fields.values["_class_name"] == "AutoencoderTiny"
    return TinyVAEConfig.parse(fields) if tiny else KLVAEConfig.parse(fields)
