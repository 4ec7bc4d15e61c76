"""Which LoRAs a checkpoint has, and what they make of its tensors.

`Lora` names a file and its weight; a checkpoint carries them, as it carries paths. `Adapters` holds
the opened files. Backends and the text encoder read tensors through it, and never by themselves.
"""

import difflib
import hashlib
import math
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.layout import Layout
from ..checkpoint.manifest import remembered_sha256
from ..checkpoint.tensor_reader import TensorReader
from ..checkpoint.weights_file import SUFFIX
from ..errors import SdxsWarning, UsageError, WeightsError
from ..files import expanded
from .fusing import LEAST_FITTING, Fitted, FusedReader, Tensors, fit
from .lora_file import Change, read_lora
from .names import Network

MOST_LORAS = 32  # at once: what is painted under more is nobody's style any more
MOST_WEIGHT = 10.0
HASH_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Lora:
    """Name a LoRA and its weight; 0 until a prompt names it.

    partial: take it also if less than 90 % of its layers fit.
    """

    path: Path
    weight: float = 1.0
    partial: bool = False

    @property
    def name(self) -> str:
        """The name that prompts call it by."""
        return self.path.name.removesuffix(SUFFIX)

    @property
    def sha256(self) -> str:
        return remembered_sha256(self.path)

    def spelled(self, weight: float | None = None) -> str:
        """Return it as an option or a record writes it, without folders: 'ink.safetensors:0.8'."""
        return f"{self.path.name}:{self.weight if weight is None else weight:g}"


def read_loras(texts: Iterable[str], partial: bool = False) -> tuple[Lora, ...]:
    """Read 'FILE', 'FILE:0.8' or 'FOLDER', whose LoRAs wait for a prompt that names them.

    Raises UsageError.
    """
    found: list[Lora] = []
    for text in texts:
        path, weight = _split(text)
        if path.is_dir():
            if weight is not None:
                raise UsageError(
                    f"--lora {text}: a folder has no weight; its LoRAs wait for a prompt that "
                    "names one: '<lora:NAME:0.8>'"
                )
            files = sorted(each for each in path.glob(f"*{SUFFIX}") if each.is_file())
            if not files:
                raise UsageError(f"--lora {text}: the folder holds no {SUFFIX} file")
            found += [Lora(file, 0.0, partial) for file in files]
        elif path.is_file():
            found.append(Lora(path, 1.0 if weight is None else weight, partial))
        else:
            raise UsageError(
                f"--lora {text}: no such file; expected FILE{SUFFIX}, FILE{SUFFIX}:0.8, or a folder"
            )
    check_loras(found)
    return tuple(found)


def check_loras(loras: Sequence[Lora]) -> None:
    """Raise UsageError for two of one name, or more with a weight than `MOST_LORAS`."""
    names: dict[str, Path] = {}
    for lora in loras:
        if lora.name in names:
            raise UsageError(
                f"--lora {lora.path}: has the name of {names[lora.name]}, and prompts tell them by "
                "their names; drop or rename one"
            )
        names[lora.name] = lora.path
    check_count(lora.weight for lora in loras)


def check_count(weights: Iterable[float]) -> None:
    """Raise UsageError for more LoRAs at once than `MOST_LORAS`."""
    count = sum(weight != 0 for weight in weights)
    if count > MOST_LORAS:
        raise UsageError(
            f"--lora: {count} LoRAs at once, expected at most {MOST_LORAS}; drop some, or name "
            "their folder and call them by prompts"
        )


def check_weight(weight: float, where: str) -> float:
    """Return a weight in range. Raises UsageError."""
    if not (math.isfinite(weight) and abs(weight) <= MOST_WEIGHT):
        raise UsageError(
            f"{where}: weight {weight:g}, expected a number from -{MOST_WEIGHT:g} to "
            f"{MOST_WEIGHT:g}"
        )
    return weight


def _split(text: str) -> tuple[Path, float | None]:
    """Split 'FILE:0.8'; a file of that whole name comes first. Raises UsageError."""
    if not text.strip():
        raise UsageError("--lora is empty; name a file, as style.safetensors:0.8")
    whole, (head, colon, tail) = expanded(text), text.rpartition(":")
    if whole.exists() or not colon:
        return whole, None
    try:
        return expanded(head), check_weight(float(tail), f"--lora {text}")
    except ValueError:
        if expanded(head).exists():
            raise UsageError(
                f"--lora {text}: weight {tail!r}, expected a number, as {Path(head).name}:0.8"
            ) from None
        return whole, None


def fixed_reason(backend: str) -> str:
    """Say why a backend's LoRAs keep their weights."""
    return (
        f"{backend}: LoRAs are fused when its program is built, so their weights stay; start "
        "again with other --lora weights, or take --backend mlx"
    )


class Adapters:
    """The LoRAs of one checkpoint, each opened when it first has a weight. Thread-safe."""

    def __init__(self, loras: Sequence[Lora], layouts: Mapping[Network, Layout]) -> None:
        """Open those with a weight. layouts: see `fusing.fit`. Raises WeightsError."""
        self.loras = tuple(loras)
        self.fixed = ""  # why the weights stay as they are, see `fixed_reason`
        self._layouts = layouts
        self._fitted: dict[int, Fitted] = {}
        self._lock = threading.Lock()
        self.open(self.weights)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights that the checkpoint was opened with."""
        return tuple(lora.weight for lora in self.loras)

    def open(self, weights: Sequence[float]) -> None:
        """Open and fit every LoRA with a weight. Raises WeightsError, UsageError."""
        check_count(weights)
        for number, weight in enumerate(weights):
            if weight:
                self.fitted(number)

    def fitted(self, number: int) -> Fitted:
        """Return one of the LoRAs as it fits the checkpoint.

        Raises WeightsError if less than 90 % of it does, unless it may.
        """
        with self._lock:
            if number not in self._fitted:
                lora = self.loras[number]
                found = fit(read_lora(lora.path), self._layouts)
                _check_fit(lora, found)
                self._fitted[number] = found
            return self._fitted[number]

    def tell(self) -> None:
        """Warn of the layers of opened LoRAs that are left out."""
        for number, fitted in sorted(self._fitted.items()):
            if fitted.misfits:
                total = fitted.count + len(fitted.misfits)
                warnings.warn(
                    f"{self.loras[number].path}: {len(fitted.misfits)} of {total} layers do not "
                    f"fit this checkpoint and are left out: {fitted.misfits_text}",
                    SdxsWarning,
                    stacklevel=3,
                )

    def changes(
        self, network: Network, weights: Sequence[float]
    ) -> dict[str, list[tuple[Change, float]]]:
        """Return what changes in a network, by layer: all LoRAs opened so far, with weights."""
        self.open(weights)
        found: dict[str, list[tuple[Change, float]]] = {}
        with self._lock:
            opened = sorted(self._fitted.items())
        for number, fitted in opened:
            for layer, change in fitted.changes[network].items():
                found.setdefault(layer, []).append((change, weights[number]))
        return found

    def reader(
        self,
        path: Path,
        network: Network,
        weights: Sequence[float] | None = None,
        prefix: str = "",
    ) -> FusedReader:
        """Open a weights file with the LoRAs in it.

        weights: of the LoRAs in their order, by default `weights`. prefix: of the file's names.
        """
        given = self.weights if weights is None else weights
        return FusedReader(path, self.changes(network, given), prefix)

    def read_text(self, weights: Sequence[float]) -> bool:
        """Tell whether LoRAs with a weight change the text encoder."""
        return any(
            weight and self.fitted(number).changes["text_encoder"]
            for number, weight in enumerate(weights)
        )

    def index(self, name: str) -> int:
        """Return the number of the LoRA that a prompt calls so. Raises UsageError."""
        names = [lora.name for lora in self.loras]
        if name in names:
            return names.index(name)
        raise unknown(name, names)


def unknown(name: str, names: Sequence[str]) -> UsageError:
    """Return the refusal of a LoRA in a prompt that was not given."""
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    given = f"given are {', '.join(names[:9])}" if names else "none was given"
    return UsageError(
        f"prompt <lora:{name[:40]}>: {hint}there is no LoRA of this name, {given}; add "
        f"--lora FILE{SUFFIX}, or the folder with it"
    )


def _check_fit(lora: Lora, fitted: Fitted) -> None:
    total = fitted.count + len(fitted.misfits)
    if not fitted.changes["unet"] and not lora.partial and fitted.changes["text_encoder"]:
        raise WeightsError(
            f"{lora.path}: changes only the text encoder, no layer of the UNet; expected a LoRA "
            "that paints; add --lora-partial to take it all the same"
        )
    if not fitted.count or (fitted.share < LEAST_FITTING and not lora.partial):
        remedy = "add --lora-partial to take the rest, or " if fitted.count else ""
        raise WeightsError(
            f"{lora.path}: {fitted.count} of {total} layers fit this checkpoint, expected at least "
            f"{LEAST_FITTING:.0%}: {fitted.misfits_text}; {remedy}take a LoRA for this model"
        )


def identity(loras: Sequence[Lora]) -> str:
    """Return what identifies LoRAs and weights, for caches; '' for none with a weight."""
    used = sorted(f"{lora.sha256} {lora.weight!r}" for lora in loras if lora.weight)
    return hashlib.sha256("\n".join(used).encode()).hexdigest()[:HASH_DIGITS] if used else ""


def open_tensors(
    path: Path, adapters: Adapters | None, network: Network, prefix: str = ""
) -> Tensors:
    """Open a weights file, with the LoRAs of its checkpoint in it if there are some."""
    return adapters.reader(path, network, None, prefix) if adapters else TensorReader(path)
