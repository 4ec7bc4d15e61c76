"""Compare LoRAs with diffusers and peft: fused weights, x0, and Core ML's program.

`python -m sdxs.experiments lora [--json PATH] [--fixtures]`. The twenty files of `lora_cases.py`.
diffusers reads each file by itself, and runs it unfused, as peft's layers; the weights are those
that it fuses. Two things it does not read are told to it otherwise: DoRA in kohya's names, which it
drops, is the same file in its own names; the text encoder's layers are given to peft one by one.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.numpy import load_file, save_file

from ...common.adapt.loras import Lora
from ...common.checkpoint.find import Checkpoint
from ...common.settings import setting
from ...mac_check.fixtures import Inputs, distances, error
from .. import record
from ..options import Options, option, result_file
from .coreml import run_program
from .diffusers import oracle_frame
from .lora_cases import (
    CASES,
    LORA_FIXTURES,
    PROGRAM_LIMIT,
    SAMPLED,
    WEIGHT_LIMIT,
    X0_LIMIT,
    LoraCase,
    changed,
    open_base,
    sample,
    x0_of,
)


@dataclass(frozen=True, slots=True)
class Result:
    """One case: the largest difference of fused weights, errors of x0 and of the program's x0."""

    name: str
    ranks: list[int]
    weights: list[float]
    layers: int
    fused: float
    x0: float
    program: float
    moved: float  # how far the LoRA moved x0, in the measure of x0's error

    @property
    def passed(self) -> bool:
        return self.fused <= WEIGHT_LIMIT and self.x0 <= X0_LIMIT and self.program <= PROGRAM_LIMIT


class Oracle:
    """diffusers and peft with the LoRAs of a case."""

    def __init__(self, case: LoraCase, loras: Sequence[Lora], folder: Path) -> None:
        self._case, self._loras, self._folder = case, loras, folder
        self.fused: dict[str, np.ndarray] = {}

    def change(self, unet: torch.nn.Module, text_encoder: torch.nn.Module) -> None:
        """Put the LoRAs into both networks."""
        names = [f"lora{n}" for n in range(len(self._loras))]
        kinds = [kind for kind, _ in self._case.files]
        for name, lora, kind in zip(names, self._loras, kinds, strict=True):
            path = lora.path
            if kind.dora and kind.scheme == "kohya":
                twin = replace(self._case, files=((replace(kind, scheme="diffusers"), 1.0),))
                (named,) = twin.write(self._folder / "twin", self._checkpoint)
                path = named.path
            state, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
                path, return_lora_metadata=True
            )
            StableDiffusionLoraLoaderMixin.load_lora_into_unet(
                state, alphas, unet, adapter_name=name, metadata=metadata
            )
            if self._case.what == "both":
                _into_text_encoder(text_encoder, path, name, lora.weight)
        unet.set_adapters(names, [lora.weight for lora in self._loras])

    def run(self, checkpoint: Checkpoint, inputs: Inputs) -> dict[str, np.ndarray]:
        """Return x0 and picture, in float64; keep the fused weights."""
        self._checkpoint = checkpoint
        networks: list[torch.nn.Module] = []

        def change(unet: torch.nn.Module, text_encoder: torch.nn.Module) -> None:
            self.change(unet, text_encoder)
            networks.append(unet)

        with torch.no_grad():
            found = oracle_frame(checkpoint, inputs, exact=True, change=change)
        (unet,) = networks
        unet.float().fuse_lora(1.0)
        for name, module in unet.named_modules():
            if isinstance(module, BaseTunerLayer):
                self.fused[name] = module.get_base_layer().weight.detach().numpy()
        return found


def _into_text_encoder(network: torch.nn.Module, path: Path, name: str, weight: float) -> None:
    """Give the text encoder's layers of a file to peft, one by one."""
    tensors = load_file(path)
    kohya = any(key.startswith("lora_te_") for key in tensors)
    ends = ("lora_down.weight", "lora_up.weight") if kohya else ("lora_A.weight", "lora_B.weight")
    targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
    prefix = "lora_te_" if kohya else "text_encoder."
    first = next(key for key in tensors if key.startswith(prefix) and key.endswith(ends[0]))
    rank = tensors[first].shape[0]
    alpha = float(tensors[first.replace(ends[0], "alpha")]) if kohya else rank
    config = LoraConfig(r=rank, lora_alpha=alpha * weight, target_modules=targets)
    inject_adapter_in_model(config, network, name)
    for layer, module in network.named_modules():
        if isinstance(module, BaseTunerLayer):
            plain = layer.removeprefix("text_model.")
            stem = (
                f"lora_te_text_model_{plain.replace('.', '_')}"
                if kohya
                else f"text_encoder.text_model.{plain}"
            )
            for matrix, end in ((module.lora_A, ends[0]), (module.lora_B, ends[1])):
                values = torch.from_numpy(tensors[f"{stem}.{end}"])
                matrix[name].weight.data = values.to(matrix[name].weight.dtype)
    network.to(next(network.parameters()).dtype)


def check(
    case: LoraCase, folder: Path, checkpoint: Checkpoint, inputs: Inputs
) -> tuple[Result, dict[str, np.ndarray]]:
    """Run one case both ways; return its result, and what the tests compare with."""
    ours = changed(case, folder, checkpoint)
    oracle = Oracle(case, ours.loras, folder)
    expected = oracle.run(checkpoint, inputs)
    tensors = ours.unet_tensors()
    off = {
        name: float(np.abs(tensors.array(f"{name}.weight") - weight).max())
        for name, weight in oracle.fused.items()
    }
    x0 = x0_of(ours, inputs)
    relative, _ = distances(run_program(ours, inputs), expected)
    result = Result(
        case.name,
        [kind.rank for kind, _ in case.files],
        [weight for _, weight in case.files],
        len(off),
        max(off.values()),
        error("x0", x0, expected["x0"]),
        relative,
        error("x0", x0_of(checkpoint, inputs), expected["x0"]),
    )
    kept = {
        f"{case.name}/{name}": sample(
            oracle.fused[name] if name in oracle.fused else tensors.array(f"{name}.weight")
        )
        for name in SAMPLED
    }
    return result, kept | {f"{case.name}/x0": expected["x0"].astype(np.float32)}


@dataclass(frozen=True, slots=True)
class LoraOptions(Options):
    """Options of this experiment."""

    json: Path | None = result_file()
    fixtures: bool = setting(False, "write what the tests compare with")
    only: str = option("", "run the cases whose names hold this", str)


def run(options: LoraOptions) -> int:
    """Compare; return 1 if a case is not within its limits."""
    logging.disable(logging.WARNING)
    results, kept = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "twin").mkdir()
        checkpoint, inputs = open_base(folder)
        for case in CASES:
            if options.only not in case.name:
                continue
            result, stored = check(case, folder, checkpoint, inputs)
            results.append(result)
            kept |= stored
            print(
                f"{'good' if result.passed else 'OFF'} {result.name}: weights {result.fused:.1e} "
                f"x0 {result.x0:.1e} program {result.program:.1e} moved {result.moved:.2f}",
                flush=True,
            )
    if options.fixtures:
        save_file(
            {name: np.ascontiguousarray(values) for name, values in kept.items()}, LORA_FIXTURES
        )
    if options.json:
        limits = {"weights": WEIGHT_LIMIT, "x0": X0_LIMIT, "program": PROGRAM_LIMIT}
        cases = json.loads(json.dumps([asdict(result) for result in results]))
        record.write(options.json, {"limits": limits, "cases": cases}, options)
    return 0 if all(result.passed for result in results) else 1
