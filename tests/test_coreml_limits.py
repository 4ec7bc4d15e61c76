"""No tensor of any full-size program is larger than what Core ML's compute units take.

The Neural Engine takes 16,384 in the last two axes and 65,536 in any (FluidAudio#121,
executorch#7907); rank 5 is the most that every unit takes. Weights are zeros in a sparse file:
shapes do not depend on them.
"""

import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sdxs.common.checkpoint.config.controlnet import ControlNetConfig
from sdxs.common.checkpoint.config.fields import JsonValue
from sdxs.common.checkpoint.config.unet import UNetConfig
from sdxs.common.checkpoint.config.vae import read_vae_config
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint, with_control
from sdxs.common.checkpoint.layout import Layout, controlnet_layout, unet_layout, vae_layout
from sdxs.common.testing.random_checkpoint import architecture, control_config
from sdxs.coreml_backend.ops import Program, Var
from sdxs.coreml_backend.program import Variant, mil_program

MOST_RANK, MOST_INNER, MOST_ANY = 5, 16_384, 65_536
SLOW, THOROUGH = pytest.mark.slow, pytest.mark.thorough
CASES = [
    # model, VAE folder, attention, stage, size
    ("sdxs-512-0.9", "vae", "split_einsum", "frame", 512),
    pytest.param("sdxs-512-0.9", "vae", "sdpa", "frame", 512, marks=THOROUGH),
    pytest.param("sdxs-512-0.9", "vae", "split_einsum", "unet", 1024, marks=THOROUGH),
    pytest.param("sdxs-512-dreamshaper", "vae", "split_einsum", "controlled", 512, marks=SLOW),
    pytest.param("sdxs-512-dreamshaper", "vae", "matmul", "frame", 768, marks=THOROUGH),
    pytest.param("sdxs-512-0.9", "vae_large", "split_einsum", "frame", 512, marks=SLOW),
]


def sparse(path: Path, layout: Layout) -> None:
    """Write a float16 safetensors file of zeros that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header: dict[str, object] = {}
    end = 0
    for name, shape in layout.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def full_size(folder: Path, name: str) -> Path:
    """A published architecture at full width, with its ControlNet, without values."""
    configs: dict[str, dict[str, JsonValue]] = dict(architecture(name))
    configs["controlnet"] = control_config(configs["unet"])
    for part, config in configs.items():
        stem = "scheduler_config" if part == "scheduler" else "config"
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / f"{stem}.json").write_text(json.dumps(config))
    weights = "diffusion_pytorch_model.safetensors"
    unet = UNetConfig.read(folder / "unet" / "config.json")
    control = ControlNetConfig.read(folder / "controlnet" / "config.json")
    sparse(folder / "unet" / weights, unet_layout(unet))
    sparse(folder / "controlnet" / weights, controlnet_layout(control))
    for vae in ("vae", "vae_large"):
        if vae in configs:
            sparse(
                folder / vae / weights, vae_layout(read_vae_config(folder / vae / "config.json"))
            )
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Checkpoint]:
    folders: dict[str, Path] = {}

    def opened(name: str, vae: str) -> Checkpoint:
        if name not in folders:
            folders[name] = full_size(tmp_path_factory.mktemp("full"), name)
        return replace(open_checkpoint(folders[name], vae_folder=vae), name=name)

    return opened


def computed(program: Program) -> Iterator[Var]:
    """Every tensor that a program computes; what is stored in it is left out."""
    for op in program.functions["main"].operations:
        if op.op_type != "const" and not op.op_type.startswith("constexpr"):
            yield from op.outputs


@pytest.mark.parametrize(("name", "vae", "attention", "stage", "size"), CASES)
def test_no_tensor_passes_the_limits_of_the_compute_units(
    checkpoint: Callable[[str, str], Checkpoint],
    name: str,
    vae: str,
    attention: str,
    stage: str,
    size: int,
) -> None:
    """Bug: GroupNorm over one flat axis had up to 122,880 elements in it."""
    given = checkpoint(name, vae)
    if stage == "controlled":
        given = with_control(given, "sketch")
    program, _ = mil_program(given, Variant(size, attention, "float32", stage=stage))
    shapes = {var.name: tuple(var.shape) for var in computed(program)}
    assert len(shapes) > 100
    for label, shape in shapes.items():
        assert len(shape) <= MOST_RANK, (label, shape)
        assert max(shape[-2:], default=0) <= MOST_INNER, (label, shape)
        assert max(shape, default=0) <= MOST_ANY, (label, shape)
