"""The demo's networks as configs of a diffusers checkpoint; a test trains them at toy width.

Chosen for a CPU: no attention at 32 x 32, where it cost a third of the frame; a narrow decoder,
because nothing costs as much as its last two convolutions at full size; the capacity sits at 32 x
32 and below.
"""

import copy

from ...common.checkpoint.config.fields import Fields, JsonValue
from ...common.checkpoint.config.frame import FrameConfig
from ...common.checkpoint.config.scheduler import SchedulerConfig
from ...common.checkpoint.config.text_encoder import CLIPTextConfig
from ...common.checkpoint.config.unet import UNetConfig
from ...common.checkpoint.config.vae import TinyVAEConfig

Configs = dict[str, dict[str, JsonValue]]

DEMO: Configs = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "attention_head_dim": [1, 1, 2],
        "attention_type": "default",
        "block_out_channels": [80, 112, 128],
        "center_input_sample": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_dim": 64,
        "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 16,
        "layers_per_block": 1,
        "mid_block_scale_factor": 1,
        "mid_block_type": None,
        "norm_eps": 1e-5,
        "norm_num_groups": 16,
        "num_attention_heads": None,
        "only_cross_attention": True,
        "out_channels": 16,
        "resnet_time_scale_shift": "default",
        "sample_size": 32,
        "time_embedding_type": "positional",
        "transformer_layers_per_block": 1,
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
    },
    "vae": {
        "_class_name": "AutoencoderTiny",
        "_diffusers_version": "0.42.1",
        "act_fn": "relu",
        "block_out_channels": [24] * 4,
        "decoder_block_out_channels": [24] * 4,
        "encoder_block_out_channels": [24] * 4,
        "force_upcast": False,
        "in_channels": 3,
        "latent_channels": 16,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "num_decoder_blocks": [3, 2, 0, 0],
        "num_encoder_blocks": [0, 0, 1, 3],
        "out_channels": 3,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 8190,
        "dtype": "float16",
        "eos_token_id": 8191,
        "hidden_act": "quick_gelu",
        "hidden_size": 64,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 8191,
        "projection_dim": 64,
        "vocab_size": 8192,
    },
    "scheduler": {
        "_class_name": "EulerDiscreteScheduler",
        "_diffusers_version": "0.42.1",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "trailing",
        "trained_betas": None,
    },
    # One step from t = 500 without noise: x0 = z - r eps, so that "no change" is eps = 0.
    "frame": {"timestep": 500, "noise_scale": 0.0, "size": 256},
}

_SHARED_WITH_CONTROLNET = (
    "_diffusers_version",
    "act_fn",
    "attention_head_dim",
    "block_out_channels",
    "cross_attention_dim",
    "down_block_types",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "layers_per_block",
    "mid_block_scale_factor",
    "mid_block_type",
    "norm_eps",
    "norm_num_groups",
    "num_attention_heads",
    "only_cross_attention",
    "resnet_time_scale_shift",
    "transformer_layers_per_block",
    "use_linear_projection",
)


def sketch_of(configs: Configs, widths: list[int], groups: int, embedding: list[int]) -> Configs:
    """SDXS' own timestep on a UNet of these widths, with the ControlNet that guides it."""
    unet = configs["unet"] | {"block_out_channels": widths, "norm_num_groups": groups}
    controlnet = {key: unet[key] for key in _SHARED_WITH_CONTROLNET} | {
        "_class_name": "ControlNetModel",
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": embedding,
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    }
    frame = {"timestep": 999, "noise_scale": 1.0, "size": configs["frame"]["size"]}
    return configs | {"unet": unet, "controlnet": controlnet, "frame": frame}


# Narrower than the demo, to leave time for the branch.
SKETCH = sketch_of(DEMO, [64, 80, 112], 8, [8, 16, 32, 48])


def toy() -> Configs:
    """The same structure, small enough to train two steps in a test. The frame is 64 pixels."""
    small = copy.deepcopy(DEMO)
    small["unet"] |= {
        "block_out_channels": [16, 16, 32],
        "in_channels": 4,
        "out_channels": 4,
        "norm_num_groups": 8,
    }
    small["vae"] |= {
        key: [8] * 4
        for key in (
            "block_out_channels",
            "decoder_block_out_channels",
            "encoder_block_out_channels",
        )
    }
    small["vae"] |= {
        "latent_channels": 4,
        "num_decoder_blocks": [1, 0, 0, 0],
        "num_encoder_blocks": [0, 0, 0, 1],
    }
    small["frame"] |= {"size": 64}
    return small


def toy_sketch() -> Configs:
    """The same of the sketch checkpoint."""
    return sketch_of(toy(), [16, 16, 32], 2, [4, 4, 4, 4])


def unet_config(configs: Configs) -> UNetConfig:
    return UNetConfig.parse(Fields(configs["unet"], "unet"))


def vae_config(configs: Configs) -> TinyVAEConfig:
    return TinyVAEConfig.parse(Fields(configs["vae"], "vae"))


def text_config(configs: Configs) -> CLIPTextConfig:
    return CLIPTextConfig.parse(Fields(configs["text_encoder"], "text_encoder"))


def scheduler_config(configs: Configs) -> SchedulerConfig:
    return SchedulerConfig.parse(Fields(configs["scheduler"], "scheduler"))


def frame_config(configs: Configs) -> FrameConfig:
    values = configs["frame"]
    return FrameConfig(int(values["timestep"]), float(values["noise_scale"]), int(values["size"]))
