"""Twenty LoRA files, and what our code makes of them; needs no torch.

The tiny SDXS of random weights, and LoRAs of random values in the names of diffusers and of kohya:
attention alone or every layer with its convolutions, DoRA, files of which a part fits, several at
once. `lora.py` beside this asks diffusers and peft the same.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...common.adapt.loras import Lora
from ...common.adapt.names import Network
from ...common.backend.assembly import with_loras
from ...common.backend.schedule import frame_steps, seeded_noise
from ...common.checkpoint.find import Checkpoint, open_checkpoint
from ...common.picture.size import FrameSize
from ...common.prompt.text_encoder import TextEncoder
from ...common.testing.random_lora import Kind, Layers, is_attention, layers_of, write_lora
from ...mac_check.fixtures import FIXTURES, Inputs, tiny_checkpoint, tiny_inputs
from ...mlx_sdxs.backend import fused_unet, load_vae
from ...mlx_sdxs.frame import Frame
from ...mlx_sdxs.networks.layers import load_weights
from ...mlx_sdxs.networks.unet import UNet2DConditionModel

LORA_FIXTURES = FIXTURES / "lora.safetensors"
WEIGHT_LIMIT, X0_LIMIT, PROGRAM_LIMIT = 1e-6, 1e-4, 5e-3
MIDDLE: Layers = {("unet", f"mid_block.resnets.{n}.conv1"): (128, 128, 3, 3) for n in range(4)}
SAMPLED = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.1.resnets.0.conv2",
)


@dataclass(frozen=True, slots=True)
class LoraCase:
    """One case. what: 'attention', 'all' of the UNet, 'both' networks. files: kinds, weights."""

    name: str
    what: str
    files: tuple[tuple[Kind, float], ...]
    partial: bool = False

    def layers(self, checkpoint: Checkpoint) -> Layers:
        def wanted(network: Network, layer: str) -> bool:
            if self.what == "all":
                return network == "unet"
            return is_attention(network, layer) and (self.what == "both" or network == "unet")

        return layers_of(checkpoint, wanted) | (MIDDLE if self.partial else {})

    def write(self, folder: Path, checkpoint: Checkpoint) -> tuple[Lora, ...]:
        """Write the files."""
        paths = [folder / f"{self.name}-{n}.safetensors" for n in range(len(self.files))]
        layers = self.layers(checkpoint)
        for path, (kind, _) in zip(paths, self.files, strict=True):
            write_lora(path, layers, kind)
        weights = [weight for _, weight in self.files]
        return tuple(Lora(path, w, True) for path, w in zip(paths, weights, strict=True))


def _one(what: str, scheme: str, rank: int, weight: float = 1.0, **more: object) -> LoraCase:
    kind = Kind(scheme, rank, seed=rank, **more)  # type: ignore[arg-type]
    dora = "-dora" if kind.dora else ""
    half = "-half" if kind.dtype is np.float16 else ""
    return LoraCase(f"{scheme}-{what}-{rank}{dora}{half}", what, ((kind, weight),))


def _several(scheme: str, *weights: float) -> LoraCase:
    files = tuple((Kind(scheme, 2 + n, seed=n), weight) for n, weight in enumerate(weights))  # type: ignore[arg-type]
    return LoraCase(f"{scheme}-{len(weights)}-files", "all", files)


CASES = (
    _one("attention", "diffusers", 1),
    _one("attention", "diffusers", 16, 0.7),
    _one("attention", "diffusers", 128, 0.5),
    _one("all", "diffusers", 4, 0.8),
    _one("all", "diffusers", 32, -0.6),
    _one("attention", "diffusers", 8, dora=True),
    _one("all", "diffusers", 3, 0.7, dora=True),
    _one("both", "diffusers", 5, 0.9),
    _one("all", "diffusers", 6, dtype=np.float16),
    _several("diffusers", 0.5, 0.8),
    replace(_one("attention", "diffusers", 7, 0.8), name="diffusers-partial", partial=True),
    _one("attention", "kohya", 1, alpha=1.0),
    _one("attention", "kohya", 16, 0.7, alpha=8.0),
    _one("attention", "kohya", 128, alpha=64.0),
    _one("all", "kohya", 4, 0.8, alpha=1.0),
    _one("all", "kohya", 64, 0.3, alpha=32.0),
    _one("both", "kohya", 5, alpha=2.0),
    _several("kohya", 1.0, -0.4, 0.3),
    replace(_one("all", "kohya", 9, alpha=3.0), name="kohya-partial", partial=True),
    _one("all", "kohya", 8, 0.6, alpha=8.0, dora=True),
)


def open_base(folder: Path) -> tuple[Checkpoint, Inputs]:
    """Write the tiny SDXS that all cases change; return it with one frame's inputs."""
    checkpoint = open_checkpoint(tiny_checkpoint(folder, "sdxs-512-0.9"))
    return checkpoint, tiny_inputs(checkpoint)


def changed(case: LoraCase, folder: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the LoRAs of a case."""
    return with_loras(checkpoint, case.write(folder, checkpoint))


def sample(weight: np.ndarray) -> np.ndarray:
    """Return 64 values of a weight, spread over all of it."""
    return np.array(weight.reshape(-1)[:: max(1, weight.size // 64)][:64], np.float32)


def samples_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return samples of the fused weights."""
    tensors = checkpoint.unet_tensors()
    return {name: sample(tensors.array(f"{name}.weight")) for name in SAMPLED}


def x0_of(checkpoint: Checkpoint, inputs: Inputs) -> np.ndarray:
    """Compute x0 of one frame in MLX, float32 (1, H/8, W/8, C)."""
    size, vae = FrameSize.of_picture(inputs.frame), checkpoint.vae
    unet = UNet2DConditionModel(checkpoint.unet)
    load_weights(unet, checkpoint.unet_weights, mx.float32, fused_unet(checkpoint))
    network = load_vae(vae, checkpoint.vae_weights, mx.float32)
    steps = frame_steps(checkpoint.scheduler, checkpoint.frame)
    frame = Frame(unet, network, steps, vae.scaling_factor, mx.float32)
    noise = mx.array(seeded_noise(inputs.seed, *size.divided(vae.reduction), vae.latent_channels))
    hidden_states = mx.array(TextEncoder(checkpoint).encode(inputs.prompt))
    z = frame.encode(mx.array(inputs.frame))
    return np.array(frame.denoise(z, hidden_states, noise))
