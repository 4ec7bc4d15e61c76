"""Configurations as frozen dataclasses, read from a checkpoint's own json files.

Field names are diffusers' and transformers'. Unknown keys are ignored, because newer
libraries add keys with neutral defaults; a known key with a value this code does not
implement is refused by name, because ignoring it would give a wrong picture.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigError

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class Fields:
    """Typed, named access to one json object; every complaint says file and key."""

    def __init__(self, values: Mapping[str, JsonValue], where: str) -> None:
        self.values = values
        self.where = where

    def fail(self, key: str, expected: str) -> ConfigError:
        return ConfigError(
            f"{self.where}: {key} is {self.values.get(key)!r}, expected {expected}; "
            "this checkpoint needs a network that sdxs does not implement"
        )

    def require(self, key: str, admitted: Sequence[JsonValue], default: JsonValue = None) -> None:
        """Refuse a value outside `admitted`; an absent key counts as `default`."""
        if self.values.get(key, default) not in admitted:
            raise self.fail(key, " or ".join(repr(a) for a in admitted))

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fail(key, "a whole number of at least 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.fail(key, "a string")
        return value

    def integers(self, key: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        value = self.values.get(key, list(default) if default is not None else None)
        if not isinstance(value, list) or not value:
            raise self.fail(key, "a list of whole numbers")
        if any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in value):
            raise self.fail(key, "a list of whole numbers")
        return tuple(v for v in value if isinstance(v, int))

    def per_block(self, key: str, blocks: int, default: int) -> tuple[int, ...]:
        """One number for all blocks, or a list with one for each."""
        value = self.values.get(key, default)
        value = default if value is None else value
        if isinstance(value, list) and len(value) == blocks:
            if all(isinstance(v, int) for v in value):
                return tuple(int(v) for v in value if isinstance(v, int))
        elif isinstance(value, int):
            return (int(value),) * blocks
        raise self.fail(key, f"a whole number or a list of {blocks}")


def read_json(path: Path) -> Fields:
    """Open one json object; ConfigError if it is absent, damaged or not an object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: file is missing; a checkpoint needs it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not readable as json ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a json object, found {type(values).__name__}")
    return Fields(values, str(path))


DOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D")
UP_BLOCKS = ("CrossAttnUpBlock2D", "UpBlock2D")


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """`unet/config.json` of diffusers' UNet2DConditionModel; tuples hold one entry per block.

    `heads` is what the json calls `attention_head_dim` when `num_attention_heads` is null.
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
        """Factor by which the innermost block is smaller than the latents."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def read(cls, path: Path) -> "UNetConfig":
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, fields: Fields) -> "UNetConfig":
        for key in ("addition_embed_type", "class_embed_type", "encoder_hid_dim", "num_class_embeds",
                    "time_cond_proj_dim", "timestep_post_act", "cross_attention_norm",
                    "time_embedding_act_fn", "time_embedding_dim",
                    "reverse_transformer_layers_per_block", "encoder_hid_dim_type"):
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
        channels = fields.integers("block_out_channels")
        blocks = len(channels)
        head_key = "attention_head_dim" if fields.values.get("num_attention_heads") is None else "num_attention_heads"
        config = cls(
            in_channels=fields.integer("in_channels", 4),
            out_channels=fields.integer("out_channels", 4),
            block_out_channels=channels,
            down_block_types=_block_types(fields, "down_block_types", DOWN_BLOCKS, blocks),
            up_block_types=_block_types(fields, "up_block_types", UP_BLOCKS, blocks),
            mid_block=fields.values.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None,
            layers_per_block=fields.per_block("layers_per_block", blocks, 2),
            transformer_layers_per_block=fields.per_block("transformer_layers_per_block", blocks, 1),
            heads=fields.per_block(head_key, blocks, 8),
            only_cross_attention=tuple(bool(v) for v in fields.per_block("only_cross_attention", blocks, False)),
            cross_attention_dim=fields.integer("cross_attention_dim", 1280),
            use_linear_projection=fields.flag("use_linear_projection", False),
            norm_num_groups=fields.integer("norm_num_groups", 32),
            norm_eps=fields.number("norm_eps", 1e-5),
            flip_sin_to_cos=fields.flag("flip_sin_to_cos", True),
            freq_shift=fields.number("freq_shift", 0),
        )
        for channel, heads in zip(config.block_out_channels, config.heads, strict=True):
            if not heads or channel % heads or not config.norm_num_groups or channel % config.norm_num_groups:
                raise fields.fail(
                    head_key, f"numbers of heads and groups ({config.norm_num_groups}) that divide {channel} channels"
                )
        return config


def _block_types(fields: Fields, key: str, known: Sequence[str], blocks: int) -> tuple[str, ...]:
    names = fields.values.get(key)
    if not isinstance(names, list) or len(names) != blocks or any(n not in known for n in names):
        raise fields.fail(key, f"{blocks} of " + ", ".join(known))
    return tuple(str(n) for n in names)


@dataclass(frozen=True, slots=True)
class TinyVAEConfig:
    """`vae/config.json` of diffusers' AutoencoderTiny (TAESD)."""

    encoder_block_out_channels: tuple[int, ...]
    decoder_block_out_channels: tuple[int, ...]
    num_encoder_blocks: tuple[int, ...]
    num_decoder_blocks: tuple[int, ...]
    latent_channels: int
    scaling_factor: float

    @property
    def reduction(self) -> int:
        """Factor by which the latents are smaller than the picture."""
        return 2 ** (len(self.num_encoder_blocks) - 1)

    @classmethod
    def parse(cls, fields: Fields) -> "TinyVAEConfig":
        fields.require("act_fn", ("relu",), "relu")
        fields.require("in_channels", (3,), 3)
        fields.require("out_channels", (3,), 3)
        fields.require("upsampling_scaling_factor", (2,), 2)
        fields.require("upsample_fn", ("nearest",), "nearest")
        fields.require("shift_factor", (0.0, None), 0.0)
        config = cls(
            encoder_block_out_channels=fields.integers("encoder_block_out_channels", (64,) * 4),
            decoder_block_out_channels=fields.integers("decoder_block_out_channels", (64,) * 4),
            num_encoder_blocks=fields.integers("num_encoder_blocks", (1, 3, 3, 3)),
            num_decoder_blocks=fields.integers("num_decoder_blocks", (3, 3, 3, 1)),
            latent_channels=fields.integer("latent_channels", 4),
            scaling_factor=fields.number("scaling_factor", 1.0),
        )
        for key, channels, counts in (
            ("encoder_block_out_channels", config.encoder_block_out_channels, config.num_encoder_blocks),
            ("decoder_block_out_channels", config.decoder_block_out_channels, config.num_decoder_blocks),
        ):
            # diffusers' own encoder only runs when every stage is equally wide
            if len(channels) != len(config.num_encoder_blocks) or len(channels) != len(counts) or len(set(channels)) != 1:
                raise fields.fail(key, f"{len(counts)} equal widths, as many as stages")
        return config


@dataclass(frozen=True, slots=True)
class KLVAEConfig:
    """`vae/config.json` of diffusers' AutoencoderKL (Stable Diffusion's full VAE)."""

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
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def parse(cls, fields: Fields) -> "KLVAEConfig":
        fields.require("act_fn", ("silu",), "silu")
        fields.require("in_channels", (3,), 3)
        fields.require("out_channels", (3,), 3)
        fields.require("shift_factor", (0.0, None))
        channels = fields.integers("block_out_channels")
        for key, name in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            _block_types(fields, key, (name,), len(channels))
        return cls(
            block_out_channels=channels,
            layers_per_block=fields.integer("layers_per_block", 1),
            latent_channels=fields.integer("latent_channels", 4),
            norm_num_groups=fields.integer("norm_num_groups", 32),
            scaling_factor=fields.number("scaling_factor", 0.18215),
            use_quant_conv=fields.flag("use_quant_conv", True),
            use_post_quant_conv=fields.flag("use_post_quant_conv", True),
            mid_block_add_attention=fields.flag("mid_block_add_attention", True),
        )


VAEConfig = TinyVAEConfig | KLVAEConfig


def read_vae_config(path: Path) -> VAEConfig:
    """Read either kind of VAE config, told apart by `_class_name`."""
    fields = read_json(path)
    fields.require("_class_name", ("AutoencoderTiny", "AutoencoderKL"))
    tiny = fields.values["_class_name"] == "AutoencoderTiny"
    return TinyVAEConfig.parse(fields) if tiny else KLVAEConfig.parse(fields)


@dataclass(frozen=True, slots=True)
class CLIPTextConfig:
    """`text_encoder/config.json` of transformers' CLIPTextModel."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    hidden_act: str
    layer_norm_eps: float

    @classmethod
    def read(cls, path: Path) -> "CLIPTextConfig":
        fields = read_json(path)
        fields.require("model_type", ("clip_text_model",))
        fields.require("hidden_act", ("quick_gelu", "gelu"), "quick_gelu")
        config = cls(
            vocab_size=fields.integer("vocab_size", 49408),
            hidden_size=fields.integer("hidden_size", 512),
            intermediate_size=fields.integer("intermediate_size", 2048),
            num_hidden_layers=fields.integer("num_hidden_layers", 12),
            num_attention_heads=fields.integer("num_attention_heads", 8),
            max_position_embeddings=fields.integer("max_position_embeddings", 77),
            hidden_act=fields.text("hidden_act", "quick_gelu"),
            layer_norm_eps=fields.number("layer_norm_eps", 1e-5),
        )
        if not config.num_attention_heads or config.hidden_size % config.num_attention_heads:
            raise fields.fail("num_attention_heads", f"a divisor of hidden_size {config.hidden_size}")
        return config


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """`scheduler/scheduler_config.json`: the noise schedule the checkpoint was trained with.

    Only the schedule is read; one-step inference needs no solver, so the class name of the
    file (Euler, PNDM, ...) makes no difference to the picture.
    """

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str

    @classmethod
    def read(cls, path: Path) -> "SchedulerConfig":
        fields = read_json(path)
        fields.require("prediction_type", ("epsilon",), "epsilon")
        fields.require("beta_schedule", ("scaled_linear", "linear"))
        fields.require("trained_betas", (None,))
        fields.require("rescale_betas_zero_snr", (False,), False)
        return cls(
            num_train_timesteps=fields.integer("num_train_timesteps", 1000),
            beta_start=fields.number("beta_start"),
            beta_end=fields.number("beta_end"),
            beta_schedule=fields.text("beta_schedule"),
        )


@dataclass(frozen=True, slots=True)
class FrameConfig:
    """`sdxs.json`, optional: how one step is taken. The defaults are SDXS-512's."""

    timestep: int = 999
    noise_scale: float = 1.0
    size: int = 512

    @classmethod
    def read(cls, path: Path, num_train_timesteps: int) -> "FrameConfig":
        if not path.exists():
            return cls()
        fields = read_json(path)
        config = cls(fields.integer("timestep", 999), fields.number("noise_scale", 1.0), fields.integer("size", 512))
        if not config.timestep < num_train_timesteps:
            raise fields.fail("timestep", f"0 to {num_train_timesteps - 1}")
        if not 0.0 <= config.noise_scale <= 1.0:
            raise fields.fail("noise_scale", "0 to 1")
        if config.size < 8:
            raise fields.fail("size", "at least 8")
        return config
