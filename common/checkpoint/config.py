"""Configurations as frozen dataclasses, read from a checkpoint's own json files.

Field names are diffusers' and transformers'. Unknown keys are ignored, because newer
libraries add keys with neutral defaults; a known key with a value this code does not
implement is refused by name, because ignoring it would give a wrong picture.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from ..errors import ConfigError, UsageError

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class Fields:
    """Typed, named access to one json object; every complaint says file, key, value and what was
    expected.
    """

    def __init__(
        self,
        values: Mapping[str, JsonValue],
        where: str,
        remedy: str = "this checkpoint needs a network that sdxs does not implement",
    ) -> None:
        self.values = values
        self.where = where
        self.remedy = remedy

    def fail(self, key: str, expected: str) -> ConfigError:
        """Build the error; a caller raises it."""
        found = f"is {json.dumps(self.values[key]):.60}" if key in self.values else "is absent"
        return ConfigError(f"{self.where}: {key} {found}, expected {expected}; {self.remedy}")

    def require(self, key: str, admitted: Sequence[JsonValue], default: JsonValue = None) -> None:
        """Refuse a value outside `admitted`; an absent key counts as `default`."""
        value = self.values.get(key, default)
        # 1 == 1.0 is the same number in json, 1 == True is not the same value
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in admitted):
            raise self.fail(key, " or ".join(json.dumps(a) for a in admitted))

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.fail(key, f"a whole number of at least {minimum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        # json.loads accepts NaN and Infinity
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise self.fail(key, "a finite number")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise self.fail(key, "a number above 0")
        return value

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

    def integers(
        self, key: str, default: Sequence[int] | None = None, minimum: int = 1
    ) -> tuple[int, ...]:
        value = self.values.get(key, list(default) if default is not None else None)
        numbers = _whole(value, minimum)
        if not numbers:
            raise self.fail(key, f"a list of whole numbers of at least {minimum}")
        return numbers

    def per_block(self, key: str, blocks: int, default: int) -> tuple[int, ...]:
        """One whole number for all blocks, or a list with one for each."""
        value = self.values.get(key, default)
        numbers = _whole(value if isinstance(value, list) else [value] * blocks, 1)
        if len(numbers) != blocks:
            raise self.fail(key, f"a whole number of at least 1, or a list of {blocks}")
        return numbers

    def flag_per_block(self, key: str, blocks: int) -> tuple[bool, ...]:
        """One flag for all blocks, or a list with one for each; false if absent."""
        value = self.values.get(key, False)
        flags = [
            v
            for v in (value if isinstance(value, list) else [value] * blocks)
            if isinstance(v, bool)
        ]
        if len(flags) != blocks or (isinstance(value, list) and len(value) != blocks):
            raise self.fail(key, f"true or false, or a list of {blocks}")
        return tuple(flags)


def _whole(values: JsonValue, minimum: int) -> tuple[int, ...]:
    """The values if they are a list of whole numbers of at least `minimum`, else nothing."""
    if not isinstance(values, list):
        return ()
    numbers = tuple(
        v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= minimum
    )
    return numbers if len(numbers) == len(values) else ()


def read_json(path: Path) -> Fields:
    """Open one json object; ConfigError if it is absent, damaged or not an object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: file is missing; a checkpoint needs it, pull or copy it again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: not readable as json ({error}); pull or copy the file again"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected a json object, found {type(values).__name__}; pull or copy the file "
            "again"
        )
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
            down_block_types=_block_types(fields, "down_block_types", DOWN_BLOCKS, blocks),
            up_block_types=_block_types(fields, "up_block_types", UP_BLOCKS, blocks),
            mid_block=fields.values.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None,
            layers_per_block=fields.per_block("layers_per_block", blocks, 2),
            transformer_layers_per_block=fields.per_block(
                "transformer_layers_per_block", blocks, 1
            ),
            heads=fields.per_block(head_key, blocks, 8),
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


@dataclass(frozen=True, slots=True)
class ControlNetConfig:
    """`config.json` of diffusers' ControlNetModel. `unet` describes the half of a UNet that it is
    a copy of.

    embedding: widths of the network that brings the condition down to the latents' size, outermost
    first. bgr: whether it was trained on conditions in OpenCV's order of colours; grey edges are
    the same in both.
    """

    unet: UNetConfig
    conditioning_channels: int
    embedding: tuple[int, ...]
    bgr: bool

    @property
    def reduction(self) -> int:
        """Factor by which the condition is larger than the latents."""
        return 1 << (len(self.embedding) - 1)

    @classmethod
    def read(cls, path: Path) -> "ControlNetConfig":
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, fields: Fields) -> "ControlNetConfig":
        fields.require("_class_name", ("ControlNetModel",))
        fields.require("global_pool_conditions", (False,), False)
        fields.require("controlnet_conditioning_channel_order", ("rgb", "bgr"), "rgb")
        downs = fields.values.get("down_block_types")
        ups = (
            [str(kind).replace("Down", "Up") for kind in reversed(downs)]
            if isinstance(downs, list)
            else None
        )
        half: dict[str, JsonValue] = {
            "_class_name": "UNet2DConditionModel",
            "up_block_types": ups,
            "out_channels": fields.values.get("in_channels", 4),
        }
        return cls(
            unet=UNetConfig.parse(Fields(dict(fields.values) | half, fields.where, fields.remedy)),
            conditioning_channels=fields.integer("conditioning_channels", 3),
            embedding=fields.integers("conditioning_embedding_out_channels", (16, 32, 96, 256)),
            bgr=fields.values.get("controlnet_conditioning_channel_order", "rgb") == "bgr",
        )


def _refuse_other_unets(fields: Fields) -> None:
    """Every setting of UNet2DConditionModel that changes the network and is implemented in one
    form only.
    """
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
            num_encoder_blocks=fields.integers("num_encoder_blocks", (1, 3, 3, 3), minimum=0),
            num_decoder_blocks=fields.integers("num_decoder_blocks", (3, 3, 3, 1), minimum=0),
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
            # diffusers' own encoder only runs when every stage is equally wide
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
            _block_types(fields, key, (name,), len(channels))
        config = cls(
            block_out_channels=channels,
            layers_per_block=fields.integer("layers_per_block", 1),
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
    """Read either kind of VAE config, told apart by `_class_name`."""
    fields = read_json(path)
    fields.require("_class_name", ("AutoencoderTiny", "AutoencoderKL"))
    tiny = fields.values["_class_name"] == "AutoencoderTiny"
    return TinyVAEConfig.parse(fields) if tiny else KLVAEConfig.parse(fields)


MOST_STEPS = 50
PROMPT_TOKENS = 77  # Stable Diffusion's networks were trained on prompts of this length


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
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, fields: Fields) -> "CLIPTextConfig":
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
            layer_norm_eps=fields.positive("layer_norm_eps", 1e-5),
        )
        if config.hidden_size % config.num_attention_heads:
            raise fields.fail(
                "num_attention_heads", f"a divisor of hidden_size {config.hidden_size}"
            )
        if config.max_position_embeddings < PROMPT_TOKENS:
            raise fields.fail(
                "max_position_embeddings", f"at least {PROMPT_TOKENS}, the length of a prompt"
            )
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
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, fields: Fields) -> "SchedulerConfig":
        fields.require("prediction_type", ("epsilon",), "epsilon")
        fields.require("beta_schedule", ("scaled_linear", "linear"))
        fields.require("trained_betas", (None,))
        fields.require("rescale_betas_zero_snr", (False,), False)
        config = cls(
            num_train_timesteps=fields.integer("num_train_timesteps", 1000),
            beta_start=fields.positive("beta_start"),
            beta_end=fields.positive("beta_end"),
            beta_schedule=fields.text("beta_schedule"),
        )
        for key, beta in (("beta_start", config.beta_start), ("beta_end", config.beta_end)):
            if beta >= 1:
                raise fields.fail(key, "a number below 1")
        return config


@dataclass(frozen=True, slots=True)
class FrameConfig:
    """`sdxs.json`, optional: how a frame is taken. The defaults are SDXS-512's.

    timestep: the one the checkpoint was trained for, or starts from. noise_scale: share of the
    seeded noise. timesteps: first and last of those it renders at; `--strength` chooses among
    them. None: `timestep` alone, and then `--strength` is refused. max_steps: the most steps it
    gains from; by default 1. steps: how many are taken; the user's choice, not the file's.
    """

    timestep: int = 999
    noise_scale: float = 1.0
    size: int = 512
    timesteps: tuple[int, int] | None = None
    max_steps: int = 1
    steps: int = 1

    @classmethod
    def read(
        cls,
        path: Path,
        num_train_timesteps: int,
        defaults: Mapping[str, JsonValue] = MappingProxyType({}),
    ) -> "FrameConfig":
        """defaults: what is known of a checkpoint whose repository has no sdxs.json; the file goes
        before them.
        """
        fields = read_json(path) if path.exists() else Fields({}, str(path))
        fields.values = dict(defaults) | dict(fields.values)
        fields.remedy = "write the value this checkpoint was trained for into sdxs.json"
        timestep = fields.integer("timestep", 999, minimum=0)
        timesteps = fields.integers("timesteps", (timestep, timestep), minimum=0)
        config = cls(
            timestep=timestep,
            noise_scale=fields.number("noise_scale", 1.0),
            size=fields.integer("size", 512, minimum=8),
            timesteps=(timesteps[0], timesteps[-1]) if "timesteps" in fields.values else None,
            max_steps=fields.integer("max_steps", 1),
        )
        last = num_train_timesteps - 1
        if timestep > last:
            raise fields.fail("timestep", f"0 to {last}, the scheduler's num_train_timesteps")
        if len(timesteps) != 2 or not timesteps[0] <= timestep <= timesteps[1] <= last:
            raise fields.fail(
                "timesteps", f"[first, last] around timestep {timestep}, up to {last}"
            )
        if not 0.0 <= config.noise_scale <= 1.0:
            raise fields.fail("noise_scale", "0 to 1")
        if config.max_steps > MOST_STEPS:
            raise fields.fail("max_steps", f"1 to {MOST_STEPS}")
        return config

    def at(
        self, strength: float | None, steps: int | None, num_train_timesteps: int, model: str
    ) -> "FrameConfig":
        """The same with the user's `--strength` and `--steps`; None leaves either as it is. Raises
        UsageError.

        strength: share of the noise schedule that a frame goes through: 1 starts from the last
        timestep, where nearly nothing of the camera is left, less keeps more of it. Timestep =
        strength * T - 1.
        """
        timestep = self.timestep
        first, last = self.timesteps or (timestep, timestep)
        if strength is not None and first == last:
            raise UsageError(
                f"--strength {strength:g}: {model} is trained for timestep {first} alone, and at "
                "any other it paints coloured "
                "glass; to keep more of the camera add --control sketch with --control-scale, or "
                "mix it in with --blend"
            )
        if strength is not None:
            timestep = round(strength * num_train_timesteps) - 1
            if not first <= timestep <= last:
                least, most = ((t + 1) / num_train_timesteps for t in (first, last))
                raise UsageError(
                    f"--strength {strength:g}: {model} renders from {least:g} to {most:g}"
                )
        if steps is not None and not 1 <= steps <= self.max_steps:
            reason = (
                "is distilled to take one step, and more make its picture worse"
                if self.max_steps == 1
                else (f"takes 1 to {self.max_steps} steps")
            )
            raise UsageError(
                f"--steps {steps}: {model} {reason}; leave --steps out, or choose another model"
            )
        if steps is not None and steps > timestep + 1:
            raise UsageError(
                f"--steps {steps}: at timestep {timestep} there is no room for so many; raise "
                "--strength"
            )
        return replace(self, timestep=timestep, steps=self.steps if steps is None else steps)
