"""Write a checkpoint with LoRAs fused into it, to be loaded like any other."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ..checkpoint.find import Checkpoint, open_checkpoint
from ..checkpoint.layout import text_encoder_layout, unet_layout
from ..checkpoint.manifest import remembered_sha256, write_sums
from ..checkpoint.registry import ENTRIES
from ..errors import UsageError, WeightsError, reason
from ..files import write_whole
from .loras import Adapters
from .names import Network

NOTE = "fused.json"  # what went into a fused checkpoint
_PARTIAL = ".fusing-"


@dataclass(frozen=True, slots=True)
class Written:
    """A fused checkpoint. changed: tensors that LoRAs changed. misfits: by LoRA, see `Fitted`."""

    folder: Path
    changed: int
    misfits: Mapping[str, tuple[tuple[str, str], ...]]


def write_fused(checkpoint: Checkpoint, folder: Path, force: bool = False) -> Written:
    """Write a checkpoint and its LoRAs as one into a folder, and verify it.

    Tensors keep their precision. force: replace a fused checkpoint that is there. Raises
    UsageError, WeightsError.
    """
    adapters = checkpoint.adapters()
    if adapters is None or not any(adapters.weights):
        raise UsageError("nothing to fuse: no LoRA has a weight; add --lora FILE:0.8")
    if folder.exists() and not (force and (folder / NOTE).is_file()):
        raise UsageError(
            f"--to {folder}: exists already; name a new folder, or add --force to replace a fused "
            "checkpoint"
        )
    partial = folder.with_name(f"{_PARTIAL}{os.getpid()}-{folder.name}")
    try:
        partial.mkdir(parents=True)
        changed = _write(checkpoint, adapters, partial)
        made = open_checkpoint(partial)
        made.verify()
        made.check_values()
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise WeightsError(
            f"{folder}: cannot be written ({reason(error)}); free space, or name another --to"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    misfits = {
        lora.name: adapters.fitted(number).misfits
        for number, lora in enumerate(adapters.loras)
        if lora.weight
    }
    return Written(folder, changed, misfits)


def _write(checkpoint: Checkpoint, adapters: Adapters, to: Path) -> int:
    """Write all parts; return the number of changed tensors. Raises OSError, WeightsError."""
    for each in sorted(checkpoint.folder.iterdir()):
        if each.is_dir() and each.name not in ("unet", "text_encoder"):
            shutil.copytree(each, to / each.name)
        elif each.is_file() and each.name in ("model_index.json", "sdxs.json"):
            shutil.copy(each, to / each.name)
    known = ENTRIES.get(checkpoint.name)
    if known and known.frame and not (to / "sdxs.json").exists():
        _write_json(to / "sdxs.json", dict(known.frame))
    names = [
        checkpoint.text_prefix() + name for name in text_encoder_layout(checkpoint.text_encoder)
    ]
    changed = _write_network(checkpoint, adapters, to, "unet", list(unet_layout(checkpoint.unet)))
    changed += _write_network(checkpoint, adapters, to, "text_encoder", names)
    used = [lora for lora in adapters.loras if lora.weight]
    _write_json(
        to / NOTE,
        {
            "model": checkpoint.name,
            "unet": remembered_sha256(checkpoint.unet_weights),
            "text encoder": remembered_sha256(checkpoint.text_encoder_weights),
            "loras": [[lora.spelled(), lora.sha256] for lora in used],
        },
    )
    write_sums(to)
    return changed


def _write_network(
    checkpoint: Checkpoint, adapters: Adapters, to: Path, network: Network, names: list[str]
) -> int:
    stored = checkpoint.unet_weights if network == "unet" else checkpoint.text_encoder_weights
    prefix = checkpoint.text_prefix() if network == "text_encoder" else ""
    reader, plain = adapters.reader(stored, network, None, prefix), {}
    for name in names:
        values = reader.array(name)
        if name in reader.changed:
            values = values.astype(reader.stored_dtype(name))
            if not np.isfinite(values).all():
                raise WeightsError(
                    f"{stored}: {name} overflows {values.dtype} with these LoRAs; give them a "
                    "smaller weight"
                )
        plain[name] = np.ascontiguousarray(values)
    (to / network).mkdir()
    shutil.copy(checkpoint.folder / network / "config.json", to / network / "config.json")
    stem = "diffusion_pytorch_model" if network == "unet" else "model"
    save_file(plain, to / network / f"{stem}.safetensors", {"format": "pt"})
    return len(reader.changed)


def _write_json(path: Path, values: object) -> None:
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode())
