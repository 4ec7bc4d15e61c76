"""UNet2DConditionModel's config.json, field names as in diffusers."""

from dataclasses import dataclass
from pathlib import Path

from .fields import MOST_COUNT, Fields, block_types, read_json

DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Hold `unet/config.json` of diffusers' UNet2DConditionModel; tuples have one entry per block.

    heads: `num_attention_heads` of the json, or `attention_head_dim` if that is null.
    """

    in_channels: int
    out_channels: int
    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    mid_block: bool
    layers_per_block: tuple[int, ...]
    transformer_layers_per_block: tuple[int, ...]
    heads: tuple[int, ...]
    only_cross_attention: tuple[bool, ...]
    cross_attention_dim: int
    use_linear_projection: bool
    norm_num_groups: int
    norm_eps: float
    flip_sin_to_cos: bool
    freq_shift: float

    @property
    def time_embed_dim(self) -> int:
        return 4 * self.block_out_channels[0]

    @property
    def reduction(self) -> int:
        """The ratio of latent size to the size in the innermost block."""
        return 1 << (len(self.block_out_channels) - 1)

    @classmethod
    def read(cls, path: Path) -> "UNetConfig":
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, fields: Fields) -> "UNetConfig":
        _refuse_other_unets(fields)
        channels = fields.integers("block_out_channels")
        blocks = len(channels)
        head_key = (
            "attention_head_dim"
            if fields.values.get("num_attention_heads") is None
            else "num_attention_heads"
        )
        config = cls(
            in_channels=fields.integer("in_channels", 4),
            out_channels=fields.integer("out_channels", 4),
            block_out_channels=channels,
            down_block_types=block_types(fields, "down_block_types", DOWN_BLOCKS, blocks),
            up_block_types=block_types(fields, "up_block_types", UP_BLOCKS, blocks),
            mid_block=fields.values.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None,
            layers_per_block=fields.per_block("layers_per_block", blocks, 2),
            transformer_layers_per_block=fields.per_block(
                "transformer_layers_per_block", blocks, 1
            ),
            heads=fields.per_block(head_key, blocks, 8, MOST_COUNT),
            only_cross_attention=fields.flag_per_block("only_cross_attention", blocks),
            cross_attention_dim=fields.integer("cross_attention_dim", 1280),
            use_linear_projection=fields.flag("use_linear_projection", False),
            norm_num_groups=fields.integer("norm_num_groups", 32),
            norm_eps=fields.positive("norm_eps", 1e-5),
            flip_sin_to_cos=fields.flag("flip_sin_to_cos", True),
            freq_shift=fields.number("freq_shift", 0),
        )
        for channel, heads in zip(config.block_out_channels, config.heads, strict=True):
            if channel % heads:
                raise fields.fail(head_key, f"a number of heads that divides {channel} channels")
            if channel % config.norm_num_groups:
                raise fields.fail("norm_num_groups", f"a divisor of {channel} channels")
        return config


def _refuse_other_unets(fields: Fields) -> None:
    """Raise ConfigError for an unimplemented value of a setting that changes the network."""
    fields.require("_class_name", ("UNet2DConditionModel",), "UNet2DConditionModel")
    for key in (
        "addition_embed_type",
        "class_embed_type",
        "encoder_hid_dim",
        "num_class_embeds",
        "time_cond_proj_dim",
        "timestep_post_act",
        "cross_attention_norm",
        "time_embedding_act_fn",
        "time_embedding_dim",
        "reverse_transformer_layers_per_block",
        "encoder_hid_dim_type",
    ):
        fields.require(key, (None,))
    for key in ("dual_cross_attention", "center_input_sample", "resnet_skip_time_act"):
        fields.require(key, (False,), False)
    fields.require("act_fn", ("silu", "swish"), "silu")
    fields.require("attention_type", ("default",), "default")
    fields.require("resnet_time_scale_shift", ("default",), "default")
    fields.require("time_embedding_type", ("positional",), "positional")
    fields.require("conv_in_kernel", (3,), 3)
    fields.require("conv_out_kernel", (3,), 3)
    fields.require("downsample_padding", (1,), 1)
    fields.require("mid_block_scale_factor", (1,), 1)
    fields.require("resnet_out_scale_factor", (1,), 1)
    fields.require("mid_block_type", ("UNetMidBlock2DCrossAttn", None), "UNetMidBlock2DCrossAttn")
