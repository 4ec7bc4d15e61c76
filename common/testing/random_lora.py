"""Write LoRA files with random values, in the names of diffusers or of kohya: for tests and parity.

A LoRA that is added to random weights moves the picture, and means nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save_file

from ..adapt.names import Network
from ..checkpoint.find import Checkpoint
from ..checkpoint.layout import text_encoder_layout, unet_layout

Scheme = Literal["diffusers", "kohya"]
Layers = dict[tuple[Network, str], tuple[int, ...]]  # shapes of the weights, in PyTorch's order
_KOHYA: dict[Network, str] = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}
_DIFFUSERS: dict[Network, str] = {"unet": "unet.", "text_encoder": "text_encoder.text_model."}
_MAGNITUDE = {"diffusers": "lora_magnitude_vector", "kohya": "dora_scale"}


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of a random LoRA. alpha: None leaves it out. size: of a change beside its weight."""

    scheme: Scheme = "diffusers"
    rank: int = 4
    alpha: float | None = None
    dora: bool = False
    dtype: type = np.float32
    seed: int = 0
    size: float = 0.5


def layers_of(
    checkpoint: Checkpoint, wanted: Callable[[Network, str], bool] = lambda network, layer: True
) -> Layers:
    """Return the layers of a checkpoint that a LoRA can change; embeddings and norms are none."""
    layouts: tuple[tuple[Network, dict[str, tuple[int, ...]]], ...] = (
        ("unet", unet_layout(checkpoint.unet)),
        ("text_encoder", text_encoder_layout(checkpoint.text_encoder)),
    )
    return {
        (network, name.removesuffix(".weight")): shape
        for network, layout in layouts
        for name, shape in layout.items()
        if name.endswith(".weight")
        and len(shape) > 1
        and "embeddings" not in name
        and wanted(network, name.removesuffix(".weight"))
    }


def is_attention(network: Network, layer: str) -> bool:
    """Tell whether a layer is one of the projections that most LoRAs change."""
    ends = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
    return layer.endswith(ends)


def write_lora(path: Path, layers: Layers, kind: Kind | None = None) -> Path:
    """Write a LoRA that changes these layers; return the path."""
    tensors = dict(_tensors(layers, kind or Kind()))
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def _tensors(layers: Layers, kind: Kind) -> Iterable[tuple[str, np.ndarray]]:
    generator = np.random.default_rng(kind.seed)
    kohya = kind.scheme == "kohya"
    down, up = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
    for (network, layer), (outputs, inputs, *kernel) in layers.items():
        flat = layer.replace(".", "_")
        name = f"{_KOHYA[network]}{flat}" if kohya else f"{_DIFFUSERS[network]}{layer}"
        fan = inputs * int(np.prod(kernel, dtype=int))
        a = generator.standard_normal((kind.rank, inputs, *kernel)) / np.sqrt(fan)
        b = generator.standard_normal((outputs, kind.rank, *[1] * len(kernel)))
        b *= kind.size / np.sqrt(kind.rank) / (kind.alpha or kind.rank) * kind.rank
        yield f"{name}.{down}.weight", a.astype(kind.dtype)
        yield f"{name}.{up}.weight", b.astype(kind.dtype)
        if kind.alpha is not None and kohya:
            yield f"{name}.alpha", np.array(kind.alpha, np.float32)
        if kind.dora:
            norms = 1 + 0.2 * generator.standard_normal(outputs)
            shape = (1, outputs, 1, 1) if kernel else (outputs,)
            yield f"{name}.{_MAGNITUDE[kind.scheme]}", norms.reshape(shape).astype(kind.dtype)
