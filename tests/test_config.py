"""Configs come from a checkpoint's json; an unimplemented value is refused by name and file."""

import json
from dataclasses import fields as dataclass_fields
from pathlib import Path

import pytest

from sdxs.common.checkpoint.config.fields import JsonValue, read_json
from sdxs.common.checkpoint.config.frame import FrameConfig
from sdxs.common.checkpoint.config.scheduler import SchedulerConfig
from sdxs.common.checkpoint.config.text_encoder import CLIPTextConfig
from sdxs.common.checkpoint.config.unet import UNetConfig
from sdxs.common.checkpoint.config.vae import KLVAEConfig, TinyVAEConfig, read_vae_config
from sdxs.common.errors import ConfigError
from sdxs.common.testing.random_checkpoint import ARCHITECTURES, architecture

Json = dict[str, JsonValue]
ABSENT = "absent"  # as a value in these tests: take the key out


def changed(base: Json, changes: Json) -> Json:
    return {key: value for key, value in (base | changes).items() if value != ABSENT}


def part(name: str, of: str = "sdxs-512-0.9") -> Json:
    return architecture(of)[name]


class Reader:
    """Writes a config with changes and reads it back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.json"

    def write(self, base: Json, **changes: JsonValue) -> Path:
        self.path.write_text(json.dumps(changed(base, changes)), encoding="utf-8")
        return self.path

    def unet(self, **changes: JsonValue) -> UNetConfig:
        return UNetConfig.read(self.write(part("unet"), **changes))

    def tiny_vae(self, **changes: JsonValue) -> TinyVAEConfig:
        config = read_vae_config(self.write(part("vae"), **changes))
        assert isinstance(config, TinyVAEConfig)
        return config

    def kl_vae(self, **changes: JsonValue) -> KLVAEConfig:
        config = read_vae_config(self.write(part("vae_large"), **changes))
        assert isinstance(config, KLVAEConfig)
        return config

    def text_encoder(self, **changes: JsonValue) -> CLIPTextConfig:
        return CLIPTextConfig.read(self.write(part("text_encoder"), **changes))

    def scheduler(self, **changes: JsonValue) -> SchedulerConfig:
        return SchedulerConfig.read(self.write(part("scheduler"), **changes))

    def frame(self, **changes: JsonValue) -> FrameConfig:
        return FrameConfig.read(self.write({}, **changes), 1000)


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


REFUSED: list[tuple[str, str, JsonValue]] = [
    # what the UNet does not do
    ("unet", "_class_name", "ControlNetModel"),
    ("unet", "addition_embed_type", "text_time"),
    ("unet", "class_embed_type", "timestep"),
    ("unet", "encoder_hid_dim", 4096),
    ("unet", "encoder_hid_dim_type", "text_proj"),
    ("unet", "num_class_embeds", 10),
    ("unet", "time_cond_proj_dim", 256),
    ("unet", "timestep_post_act", "silu"),
    ("unet", "cross_attention_norm", "layer_norm"),
    ("unet", "time_embedding_act_fn", "silu"),
    ("unet", "time_embedding_dim", 512),
    ("unet", "reverse_transformer_layers_per_block", [1, 1, 1]),
    ("unet", "dual_cross_attention", True),
    ("unet", "center_input_sample", True),
    ("unet", "resnet_skip_time_act", True),
    ("unet", "act_fn", "mish"),
    ("unet", "act_fn", None),
    ("unet", "attention_type", "gated"),
    ("unet", "resnet_time_scale_shift", "scale_shift"),
    ("unet", "time_embedding_type", "fourier"),
    ("unet", "conv_in_kernel", 1),
    ("unet", "conv_out_kernel", 1),
    ("unet", "downsample_padding", 0),
    ("unet", "downsample_padding", True),
    ("unet", "mid_block_scale_factor", 1.4142),
    ("unet", "resnet_out_scale_factor", 2.0),
    ("unet", "mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
    ("unet", "down_block_types", ["CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"]),
    ("unet", "down_block_types", ["CrossAttnDownBlock2D"]),
    ("unet", "down_block_types", ABSENT),
    ("unet", "up_block_types", ["UpBlock2D", "UpBlock2D", "DownBlock2D"]),
    ("unet", "up_block_types", "UpBlock2D"),
    ("unet", "transformer_layers_per_block", [[1, 2], 1, 1]),
    # wrong types and numbers that cannot be
    ("unet", "block_out_channels", ABSENT),
    ("unet", "block_out_channels", []),
    ("unet", "block_out_channels", 320),
    ("unet", "block_out_channels", [320, "640", 1280]),
    ("unet", "block_out_channels", [320, 640, 0]),
    ("unet", "block_out_channels", [True, 640, 1280]),
    ("unet", "in_channels", "4"),
    ("unet", "in_channels", 0),
    ("unet", "in_channels", True),
    ("unet", "in_channels", 4.5),
    ("unet", "out_channels", None),
    ("unet", "layers_per_block", [1, 1]),
    ("unet", "layers_per_block", 0),
    ("unet", "layers_per_block", True),
    ("unet", "layers_per_block", None),
    ("unet", "attention_head_dim", [5, 10]),
    ("unet", "attention_head_dim", 7),
    ("unet", "attention_head_dim", -5),
    ("unet", "attention_head_dim", None),
    ("unet", "num_attention_heads", 7),
    ("unet", "only_cross_attention", [True, False]),
    ("unet", "only_cross_attention", [True, False, 0]),
    ("unet", "only_cross_attention", [True, False, True, 0]),
    ("unet", "only_cross_attention", 1),
    ("unet", "cross_attention_dim", [1024, 1024, 1024]),
    ("unet", "use_linear_projection", "yes"),
    ("unet", "norm_num_groups", 7),
    ("unet", "norm_num_groups", None),
    ("unet", "norm_eps", 0),
    ("unet", "norm_eps", "1e-5"),
    ("unet", "norm_eps", float("nan")),
    ("unet", "flip_sin_to_cos", 1),
    ("unet", "freq_shift", False),
    ("unet", "freq_shift", float("inf")),
    # the small VAE
    ("tiny_vae", "_class_name", "VQModel"),
    ("tiny_vae", "_class_name", ABSENT),
    ("tiny_vae", "act_fn", "silu"),
    ("tiny_vae", "in_channels", 4),
    ("tiny_vae", "out_channels", 4),
    ("tiny_vae", "upsampling_scaling_factor", 4),
    ("tiny_vae", "upsample_fn", "bilinear"),
    ("tiny_vae", "shift_factor", 0.1159),
    ("tiny_vae", "encoder_block_out_channels", [64, 64, 64, 128]),
    ("tiny_vae", "decoder_block_out_channels", [64, 64, 128, 64]),
    ("tiny_vae", "num_encoder_blocks", [1, 3, 3]),
    ("tiny_vae", "num_decoder_blocks", [3, 3, 3, 3, 1]),
    ("tiny_vae", "num_decoder_blocks", [3, 3, 3, -1]),
    ("tiny_vae", "latent_channels", 0),
    ("tiny_vae", "scaling_factor", 0),
    # the full VAE
    ("kl_vae", "act_fn", "relu"),
    ("kl_vae", "in_channels", 1),
    ("kl_vae", "out_channels", 1),
    ("kl_vae", "shift_factor", 0.1159),
    ("kl_vae", "latents_mean", [0.0, 0.0, 0.0, 0.0]),
    ("kl_vae", "latents_std", [1.0, 1.0, 1.0, 1.0]),
    ("kl_vae", "down_block_types", ["AttnDownEncoderBlock2D"] * 4),
    ("kl_vae", "up_block_types", ["UpDecoderBlock2D"] * 3),
    ("kl_vae", "block_out_channels", None),
    ("kl_vae", "norm_num_groups", 48),
    ("kl_vae", "layers_per_block", [2, 2, 2, 2]),
    ("kl_vae", "use_quant_conv", 0),
    ("kl_vae", "scaling_factor", -1.0),
    # the text encoder
    ("text_encoder", "model_type", "t5"),
    ("text_encoder", "model_type", ABSENT),
    ("text_encoder", "hidden_act", "relu"),
    ("text_encoder", "hidden_size", "1024"),
    ("text_encoder", "num_attention_heads", 7),
    ("text_encoder", "num_attention_heads", 0),
    ("text_encoder", "max_position_embeddings", 76),
    ("text_encoder", "vocab_size", -1),
    ("text_encoder", "layer_norm_eps", -1e-5),
    # the noise schedule
    ("scheduler", "prediction_type", "v_prediction"),
    ("scheduler", "beta_schedule", "squaredcos_cap_v2"),
    ("scheduler", "beta_schedule", ABSENT),
    ("scheduler", "trained_betas", [0.1, 0.2]),
    ("scheduler", "rescale_betas_zero_snr", True),
    ("scheduler", "beta_start", ABSENT),
    ("scheduler", "beta_start", 0),
    ("scheduler", "beta_end", 1.0),
    ("scheduler", "num_train_timesteps", 0),
    # sdxs.json
    ("frame", "timestep", 1000),
    ("frame", "timestep", -1),
    ("frame", "timestep", 999.0),
    ("frame", "timestep", "999"),
    ("frame", "noise_scale", 1.01),
    ("frame", "noise_scale", -0.01),
    ("frame", "noise_scale", None),
    ("frame", "size", 7),
    ("frame", "size", "512x512"),
]


@pytest.mark.parametrize(("kind", "key", "value"), REFUSED)
def test_a_value_that_is_not_implemented_is_refused_by_name(
    read: Reader, kind: str, key: str, value: JsonValue
) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(read, kind)(**{key: value})
    message = str(caught.value)
    found = "is absent" if value == ABSENT else f"is {json.dumps(value)[:60]}"
    assert message.startswith(f"{read.path}: {key} {found}, expected ")
    assert "; " in message and "\n" not in message


@pytest.mark.parametrize(
    "kind", ["unet", "tiny_vae", "kl_vae", "text_encoder", "scheduler", "frame"]
)
def test_unknown_keys_are_ignored(read: Reader, kind: str) -> None:
    plain = getattr(read, kind)()
    assert getattr(read, kind)(invented_tomorrow={"a": [1]}, _diffusers_version="9.9") == plain


@pytest.mark.parametrize("name", sorted(p.stem for p in ARCHITECTURES.glob("*.json")))
def test_every_published_architecture_is_read(read: Reader, name: str) -> None:
    configs = architecture(name)
    unet = UNetConfig.read(read.write(configs["unet"]))
    assert unet.reduction == 2 ** (len(unet.block_out_channels) - 1)
    assert read_vae_config(read.write(configs["vae"])).reduction == 8
    text = CLIPTextConfig.read(read.write(configs["text_encoder"]))
    assert text.hidden_size == unet.cross_attention_dim
    scheduler = SchedulerConfig.read(read.write(configs["scheduler"]))
    assert scheduler == SchedulerConfig(1000, 0.00085, 0.012, "scaled_linear")


def test_the_papers_unet(read: Reader) -> None:
    config = read.unet()
    assert config.block_out_channels == (320, 640, 1280)
    assert config.heads == (5, 10, 20)
    assert config.only_cross_attention == (True, False, False)
    assert config.layers_per_block == config.transformer_layers_per_block == (1, 1, 1)
    assert config.time_embed_dim == 1280
    assert not config.mid_block


@pytest.mark.parametrize(
    ("value", "mid_block"), [(ABSENT, True), (None, False), ("UNetMidBlock2DCrossAttn", True)]
)
def test_an_absent_mid_block_type_is_not_a_null_one(
    read: Reader, value: JsonValue, mid_block: bool
) -> None:
    assert read.unet(mid_block_type=value).mid_block is mid_block


@pytest.mark.parametrize(
    ("dim", "heads", "expected"),
    [
        (8, ABSENT, (8, 8, 8)),
        ([5, 10, 20], None, (5, 10, 20)),
        (ABSENT, ABSENT, (8, 8, 8)),
        ([5, 10, 20], 4, (4, 4, 4)),
        (8, [2, 4, 8], (2, 4, 8)),
    ],
)
def test_attention_head_dim_is_the_number_of_heads_unless_that_is_given(
    read: Reader, dim: JsonValue, heads: JsonValue, expected: tuple[int, ...]
) -> None:
    assert read.unet(attention_head_dim=dim, num_attention_heads=heads).heads == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ABSENT, (False, False, False)),
        (False, (False, False, False)),
        (True, (True, True, True)),
        ([False, True, False], (False, True, False)),
    ],
)
def test_only_cross_attention_is_a_flag_or_a_list(
    read: Reader, value: JsonValue, expected: tuple[bool, ...]
) -> None:
    assert read.unet(only_cross_attention=value).only_cross_attention == expected


def test_an_absent_key_has_diffusers_default(read: Reader) -> None:
    absent: Json = dict.fromkeys(
        (
            "in_channels",
            "out_channels",
            "layers_per_block",
            "cross_attention_dim",
            "use_linear_projection",
            "norm_num_groups",
            "norm_eps",
            "flip_sin_to_cos",
            "freq_shift",
            "act_fn",
            "_class_name",
        ),
        ABSENT,
    )
    config = read.unet(**absent)
    assert (config.in_channels, config.out_channels, config.layers_per_block) == (4, 4, (2, 2, 2))
    assert (config.cross_attention_dim, config.use_linear_projection) == (1280, False)
    assert (config.norm_num_groups, config.norm_eps) == (32, 1e-5)
    assert (config.flip_sin_to_cos, config.freq_shift) == (True, 0.0)


def test_the_small_vae(read: Reader) -> None:
    config = read.tiny_vae()
    assert config == TinyVAEConfig((64,) * 4, (64,) * 4, (1, 3, 3, 3), (3, 3, 3, 1), 4, 1.0)
    assert config.reduction == 8
    names = {field.name: ABSENT for field in dataclass_fields(TinyVAEConfig)}
    assert read.tiny_vae(**names) == config


def test_the_full_vae(read: Reader) -> None:
    config = read.kl_vae()
    assert config == KLVAEConfig((128, 256, 512, 512), 2, 4, 32, 0.18215, True, True, True)
    assert config.reduction == 8
    assert not read.kl_vae(use_quant_conv=False).use_quant_conv


def test_whole_numbers_may_be_written_as_floats_where_a_number_is_asked_for(read: Reader) -> None:
    assert read.unet(resnet_out_scale_factor=1.0, freq_shift=0).freq_shift == 0.0


def test_sdxs_json_may_be_absent(tmp_path: Path) -> None:
    assert FrameConfig.read(tmp_path / "sdxs.json", 1000) == FrameConfig(999, 1.0, 512)


def test_sdxs_json_may_say_less_than_everything(read: Reader) -> None:
    assert read.frame(timestep=0) == FrameConfig(0, 1.0, 512)
    assert read.frame(noise_scale=0, size=256) == FrameConfig(999, 0.0, 256)


def test_sdxs_json_may_admit_other_timesteps_and_more_steps(read: Reader) -> None:
    assert read.frame(timesteps=[0, 999], max_steps=4) == FrameConfig(999, 1.0, 512, (0, 999), 4)
    assert read.frame(timestep=600, timesteps=[400, 600]).timesteps == (400, 600)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timesteps": [0, 900]}, "around timestep 999"),
        ({"timesteps": [0]}, "around timestep 999"),
        ({"timesteps": [0, 999, 1000]}, "around timestep 999"),
        ({"timesteps": [0, 1000]}, "up to 999"),
        ({"timesteps": [999, 0]}, "around timestep"),
        ({"timesteps": "all"}, "a list of whole numbers"),
        ({"max_steps": 0}, "at least 1"),
        ({"max_steps": 51}, "1 to 50"),
    ],
)
def test_timesteps_and_steps_that_cannot_be(
    read: Reader, changes: dict[str, JsonValue], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read.frame(**changes)


def test_what_is_known_of_a_checkpoint_without_sdxs_json_comes_second(tmp_path: Path) -> None:
    known: dict[str, JsonValue] = {"max_steps": 4, "size": 256}
    path = tmp_path / "sdxs.json"
    assert FrameConfig.read(path, 1000, known) == FrameConfig(size=256, max_steps=4)
    path.write_text('{"size": 64}')
    assert FrameConfig.read(path, 1000, known) == FrameConfig(size=64, max_steps=4)


def test_the_default_timestep_must_exist_in_the_schedule(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"timestep is absent, expected 0 to 499.*write the value"
    ):
        FrameConfig.read(tmp_path / "sdxs.json", 500)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "not readable as json"),
        (b'{"a": 1', "not readable as json"),
        (b"\xff\xfe{}", "not readable as json"),
        (b"[" * 100_000, "not readable as json"),
        (b"[1]", "expected a json object, found a list"),
        (b"null", "expected a json object, found null"),
    ],
    ids=["empty", "cut off", "not utf-8", "deep", "list", "null"],
)
def test_damaged_json(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {complaint}") and "\n" not in str(caught.value)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: file is missing"):
        read_json(tmp_path / "config.json")


def test_a_folder_in_the_place_of_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not readable as json"):
        read_json(tmp_path)


def test_a_long_value_is_cut(read: Reader) -> None:
    with pytest.raises(ConfigError) as caught:
        read.unet(act_fn="x" * 1000)
    assert len(str(caught.value)) < 300 + len(str(read.path))
