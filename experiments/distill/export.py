"""Write trained networks as a checkpoint in the diffusers layout, with card and hashes."""

import hashlib
import json
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from ...common.checkpoint.manifest import SUMS
from .architecture import Configs
from .recipe import Networks

CODE = (
    "material/teachers",
    "material/photographs",
    "material/pairs",
    "material/phrases",
    "architecture",
    "text_model",
    "losses",
    "stages",
    "training",
    "recipe",
    "conv_gradient",
    "sketch",
)


def code_hash() -> str:
    """sha256 over the files that decide what comes out of a training run."""
    digest = hashlib.sha256()
    for name in CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


def tensors(module: nn.Module) -> dict[str, np.ndarray]:
    """Weights as the file holds them: float16, convolutions as O, I, kH, kW."""
    found = {}
    for key, value in tree_flatten(module.parameters()):
        turned = value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
        found[key] = np.ascontiguousarray(np.array(turned.astype(mx.float16)))
    return found


def write(networks: Networks, configs: Configs, tokenizer: Path, folder: Path) -> Path:
    """Write every file of the checkpoint but its card into `folder`, and return it."""
    for name, module, file in (
        ("unet", networks.unet, "diffusion_pytorch_model"),
        ("vae", networks.vae, "diffusion_pytorch_model"),
        ("text_encoder", networks.text, "model"),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors(module), folder / name / f"{file}.safetensors", {"format": "pt"})
        write_json(folder / name / "config.json", configs[name])
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler" / "scheduler_config.json", configs["scheduler"])
    shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)
    write_json(folder / "model_index.json", _INDEX)
    note = (
        "one step, epsilon prediction, x0 = z - (sqrt(1-a)/sqrt(a)) eps at t = 500 with no added "
        "noise; SDXS itself is timestep 999, noise_scale 1.0, size 512"
    )
    write_json(folder / "sdxs.json", {**configs["frame"], "note": note})
    write_sums(folder)
    return folder


def write_sums(folder: Path) -> None:
    """Hash every file into SHA256SUMS, which is what the code verifies the checkpoint against."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    rows = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n"
        for p in files
    ]
    (folder / SUMS).write_text("".join(rows), encoding="utf-8")


def write_json(path: Path, values: dict[str, object]) -> None:
    """Write a config as a checkpoint holds it."""
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


_INDEX: dict[str, object] = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}
