"""Open a LoRA file and check it by itself, before it meets a checkpoint; safetensors only.

A LoRA changes the weight W of a layer by s (alpha / rank) B A, with A (rank, inputs) and B
(outputs, rank) (Hu et al. 2021, arXiv:2106.09685); LoCon does so for convolutions. DoRA then scales
every output to a trained magnitude (Liu et al. 2024, arXiv:2402.09353).
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from safetensors import SafetensorError, safe_open

from ..checkpoint.tensor_reader import TensorReader
from ..checkpoint.weights_file import PICKLE_SUFFIXES, refuse_pointer
from ..errors import WeightsError, reason
from .names import Key, Network, Part, family_of, method_of, read_key

_METADATA = "lora_adapter_metadata"  # diffusers since 0.34: peft's config, per network
_CONFIG = "adapter_config.json"  # peft's own folder
MOST_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """One layer's part of a LoRA, as stored.

    layer, flat: see `names.Key`. down: A. up: B. scaling: alpha / rank. magnitude: of DoRA.
    unusual: what it has beside these, or ''.
    """

    network: Network
    layer: str
    flat: bool
    down: np.ndarray
    up: np.ndarray
    scaling: float
    magnitude: np.ndarray | None = None
    unusual: str = ""

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])


def read_lora(path: Path) -> tuple[Change, ...]:
    """Read a LoRA whole, checked by itself. Raises WeightsError."""
    names, metadata = _open(path)
    keys = {name: key for name in names if (key := read_key(name))}
    _refuse_others(path, names, keys, metadata)
    parts: dict[tuple[Network, str], dict[Part, str]] = defaultdict(dict)
    for name, key in keys.items():
        found = parts[key.network, key.layer]
        if key.part in found:
            raise _wrong(path, f"{name} and {found[key.part]} are the same part of one layer")
        found[key.part] = name
    flat = {(key.network, key.layer): key.flat for key in keys.values()}
    reader, alphas = TensorReader(path), _Alphas(path, metadata)
    return tuple(
        _change(path, reader, network, layer, flat[network, layer], found, alphas)
        for (network, layer), found in parts.items()
    )


def _open(path: Path) -> tuple[list[str], dict[str, str]]:
    """Return the names and the metadata of a sound safetensors file. Raises WeightsError."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise WeightsError(f"{path}: {what}; expected a LoRA, a .safetensors file")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise WeightsError(
            f"{path}: is a pickle by its name; unpickling can run any code, so it is never loaded; "
            "get the LoRA as .safetensors"
        )
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: is empty (0 bytes), expected a LoRA; download it again")
    refuse_pointer(path)
    try:
        TensorReader(path)
        with safe_open(path, framework="numpy") as file:
            return list(file.keys()), dict(file.metadata() or {})
    except WeightsError as error:  # which speaks of a checkpoint
        raise WeightsError(f"{str(error).partition(';')[0]}; get the LoRA again") from None
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read ({reason(error)}); get it again") from None


def _refuse_others(
    path: Path, names: list[str], keys: Mapping[str, Key], metadata: Mapping[str, str]
) -> None:
    """Raise WeightsError for a file that is no LoRA, or one for another family of models."""
    if method := method_of(names):
        raise WeightsError(
            f"{path}: is {method}, which is not supported; expected LoRA, LoCon or DoRA; take the "
            "LoRA of this style, or convert it where it was trained"
        )
    if family := family_of(names):
        raise WeightsError(
            f"{path}: is for {family}; expected a LoRA of the UNet of Stable Diffusion, with names "
            "of diffusers or kohya; take the one for your model"
        )
    version = metadata.get("ss_base_model_version", "")
    if version and not version.startswith(("sd_v1", "sd_v2", "sd_1", "sd_2", "sd1", "sd2", "sdxs")):
        raise WeightsError(
            f"{path}: was trained on {version!r}, by its metadata; expected one of Stable "
            "Diffusion 1 or 2; take the one for your model"
        )
    if not keys:
        first = f", first {names[0]!r}" if names else ""
        raise WeightsError(
            f"{path}: holds no LoRA: none of its {len(names)} tensors{first} has a name of "
            "diffusers (lora_A) or kohya (lora_down); is it a checkpoint, or a ControlNet?"
        )


class _Alphas:
    """What the metadata of a file says of scaling; kohya's own tensors say it otherwise."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        stored = metadata.get(_METADATA)
        beside = path.parent / _CONFIG
        try:
            if stored is None and path.name == "adapter_model.safetensors" and beside.is_file():
                with beside.open("rb") as file:
                    stored = file.read(MOST_CONFIG_BYTES).decode()
            self._config = cast(dict[str, object], json.loads(stored) if stored else {})
            self._config.items()
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise WeightsError(
                f"{path}: the config of its LoRA is damaged ({reason(error)}); get it again"
            ) from None

    def of(self, network: Network, layer: str, rank: int) -> float:
        """Return alpha / rank, or 1 without an alpha, which is what peft and kohya take then."""
        config = self._config
        if any(name.startswith(f"{network}.") for name in config):
            of_network = {
                name.removeprefix(f"{network}."): value
                for name, value in config.items()
                if name.startswith(f"{network}.")
            }
            config = of_network
        alpha = config.get("lora_alpha")
        patterns = config.get("alpha_pattern")
        if isinstance(patterns, dict):
            ends = (n for n in patterns if layer == n or layer.endswith(f".{n}"))
            alpha = patterns.get(next(ends, ""), alpha)
        if not isinstance(alpha, int | float):
            return 1.0
        return float(alpha) / (rank**0.5 if config.get("use_rslora") is True else rank)


def _change(
    path: Path,
    reader: TensorReader,
    network: Network,
    layer: str,
    flat: bool,
    parts: Mapping[Part, str],
    alphas: _Alphas,
) -> Change:
    """Put the parts of one layer together. Raises WeightsError if they do not belong together."""
    read = {part: _finite(path, name, reader) for part, name in parts.items()}
    if missing := {"down", "up"} - read.keys():
        raise _wrong(
            path,
            f"{layer} has no {' and no '.join(sorted(missing))} matrix, only {[*parts.values()]}",
        )
    down, up = read["down"], read["up"]
    if down.ndim not in (2, 4) or up.ndim not in (2, 4) or 0 in (*down.shape, *up.shape):
        raise _wrong(path, f"{layer} has matrices of shapes {down.shape} and {up.shape}")
    if up.shape[1] != down.shape[0]:
        raise _wrong(
            path,
            f"{layer} has rank {down.shape[0]} in {parts['down']} {down.shape} and {up.shape[1]} "
            f"in {parts['up']} {up.shape}, expected one rank",
        )
    scaling = alphas.of(network, layer, down.shape[0])
    if "alpha" in read:
        if read["alpha"].size != 1:
            raise _wrong(
                path, f"{parts['alpha']} has shape {read['alpha'].shape}, expected one number"
            )
        scaling = float(read["alpha"].reshape(())) / down.shape[0]
    unusual = (
        "its middle matrix (lora_mid, Tucker's form) is not supported" if "mid" in read else ""
    )
    unusual = "it changes the bias, too (lora_B.bias)" if "bias" in read else unusual
    return Change(network, layer, flat, down, up, scaling, read.get("magnitude"), unusual)


def _finite(path: Path, name: str, reader: TensorReader) -> np.ndarray:
    values = reader.array(name)
    if not np.isfinite(values).all():
        raise _wrong(path, f"{name} holds values that are not finite (NaN or infinite)")
    return values


def _wrong(path: Path, what: str) -> WeightsError:
    return WeightsError(f"{path}: {what}; the LoRA is damaged or its training failed: get it again")
