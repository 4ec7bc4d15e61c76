"""Write a checkpoint with random weights in the real layout: for parity, benchmarks and tests.

Speed and memory do not depend on the values, and parity must hold for any. The architectures in
`architectures/` are those of the published checkpoints, so names, shapes and sizes are the real
ones; `tiny` narrows one without changing its structure. Pictures made with random weights mean
nothing.
"""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ..checkpoint.config.controlnet import ControlNetConfig
from ..checkpoint.config.fields import Fields, JsonValue
from ..checkpoint.config.text_encoder import CLIPTextConfig
from ..checkpoint.config.unet import UNetConfig
from ..checkpoint.config.vae import read_vae_config
from ..checkpoint.find import PACKAGE_FOLDER
from ..checkpoint.layout import (
    Layout,
    controlnet_layout,
    text_encoder_layout,
    unet_layout,
    vae_layout,
)
from ..errors import UsageError

ARCHITECTURES = Path(__file__).parent / "architectures"
Architecture = dict[str, dict[str, JsonValue]]


def architecture(name: str) -> Architecture:
    """Configs of a published checkpoint by name: unet, vae, vae_large, text_encoder, scheduler."""
    path = ARCHITECTURES / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in ARCHITECTURES.glob("*.json")))
        raise UsageError(f"unknown architecture {name!r}; known are {known}")
    configs: Architecture = json.loads(path.read_text(encoding="utf-8"))
    return configs


def tiny(full: Architecture) -> Architecture:
    """The same structure at a tenth of the width, with a text encoder for the demo's vocabulary."""
    small = copy.deepcopy(full)
    unet, text = small["unet"], small["text_encoder"]
    widths = Fields(unet, "unet").integers("block_out_channels")
    heads: list[JsonValue] = [2, 4, 8, 8]
    unet["block_out_channels"] = [width // 10 for width in widths]
    unet["attention_head_dim"] = heads[: len(widths)] if unet["use_linear_projection"] else 4
    unet |= {"norm_num_groups": 8, "cross_attention_dim": 64}
    text |= {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    text |= {
        "vocab_size": 8192,
        "bos_token_id": 8190,
        "eos_token_id": 8191,
        "pad_token_id": 8191,
        "projection_dim": 64,
    }
    for name in ("vae", "vae_large"):
        vae = small.get(name, {"_class_name": None})
        if vae["_class_name"] == "AutoencoderTiny":
            for key in (
                "block_out_channels",
                "encoder_block_out_channels",
                "decoder_block_out_channels",
            ):
                vae[key] = [16] * 4
        elif vae["_class_name"] == "AutoencoderKL":
            vae |= {"block_out_channels": [8, 16, 32, 32], "norm_num_groups": 8}
    return small


def control_config(unet: dict[str, JsonValue], middle: bool = True) -> dict[str, JsonValue]:
    """Config of a ControlNet for this UNet. The published sketch ControlNet has a middle where its
    UNet has none.
    """
    shared = {
        key: value
        for key, value in unet.items()
        if key not in ("up_block_types", "out_channels", "sample_size")
    }
    return shared | {
        "_class_name": "ControlNetModel",
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else None,
        "conditioning_channels": 3,
        "conditioning_embedding_out_channels": [16, 32, 96, 256],
    }


def write_control(
    folder: Path, config: dict[str, JsonValue], seed: int = 0, dtype: type = np.float32
) -> Path:
    """Write a ControlNet with random weights into `folder` and return it. Its outputs are not
    zero, as untrained ones are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    layout = controlnet_layout(ControlNetConfig.read(folder / "config.json"))
    _save(
        folder / "diffusion_pytorch_model.safetensors",
        layout,
        np.random.Generator(np.random.SFC64(seed)),
        dtype,
    )
    return folder


def write_checkpoint(
    folder: Path, configs: Architecture, seed: int = 0, dtype: type = np.float32
) -> Path:
    """Write every file of a checkpoint into `folder` and return it. float32 or float16 weights."""
    generator = np.random.Generator(np.random.SFC64(seed))
    for name, config in configs.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        stem = "scheduler_config" if name == "scheduler" else "config"
        (folder / name / f"{stem}.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    _save(
        folder / "unet" / "diffusion_pytorch_model.safetensors",
        unet_layout(UNetConfig.read(folder / "unet" / "config.json")),
        generator,
        dtype,
    )
    for name in ("vae", "vae_large"):
        if name in configs:
            _save(
                folder / name / "diffusion_pytorch_model.safetensors",
                vae_layout(read_vae_config(folder / name / "config.json")),
                generator,
                dtype,
            )
    _save(
        folder / "text_encoder" / "model.safetensors",
        text_encoder_layout(CLIPTextConfig.read(folder / "text_encoder" / "config.json")),
        generator,
        dtype,
    )
    # The CLIP vocabulary is the checkpoints' own; the demo's first 8,192 entries of it serve here.
    shutil.copytree(
        PACKAGE_FOLDER / "weights" / "demo" / "tokenizer", folder / "tokenizer", dirs_exist_ok=True
    )
    return folder


def _save(path: Path, layout: Layout, generator: np.random.Generator, dtype: type) -> None:
    tensors: dict[str, np.ndarray] = {}
    for name, shape in layout.items():
        values = generator.standard_normal(shape, dtype=np.float32)
        if len(shape) > 1:
            values /= np.sqrt(
                np.prod(shape[1:]), dtype=np.float32
            )  # keeps activations near 1 at any depth
        else:
            values *= np.float32(0.1)
            if name.endswith("weight"):
                values += 1  # a norm's gain
        tensors[name] = values.astype(dtype)
    save_file(tensors, path, metadata={"format": "pt"})
