"""The record inside a PNG: how its picture was made, for `sdxs image --from-metadata` and others.

A PNG carries it twice: as JSON under `sdxs`, and under `parameters` as the lines that programs
around Stable Diffusion read (AUTOMATIC1111's form). Files and folders are named without the folders
around them: pictures are passed on.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..backend.description import Description
from ..backend.spec import BackendSpec, versions_of
from ..checkpoint.find import Checkpoint
from ..checkpoint.manifest import remembered_sha256
from ..files import without_folders
from ..live.parameters import PLACES, TABLE
from ..prompt.cache import encoder_hash
from .png_text import with_text
from .size import Fit, FrameSize
from .still import BACKGROUND

SCHEMA = 1
KEYWORD, PARAMETERS = "sdxs", "parameters"
HASH_DIGITS = 10  # of a "Model hash", as others write it
SAMPLER = "Euler"  # what every frame is, see `backend.schedule`

EXACT = {"strict": True, "extra": "forbid", "allow_inf_nan": False}

Record = Mapping[str, object]
Stamp = Callable[[bytes, np.ndarray], bytes]  # a PNG and its RGB picture; the PNG with its record


@dataclass(frozen=True, slots=True)
class Still:
    """The request for one picture; see `api.open_model` and `api.Model.__call__`.

    source: path of the picture to paint over, or ''. background: colour behind its transparent
    parts. loras: as `--lora` takes them; in a record without their folders.
    """

    __pydantic_config__ = EXACT  # for records that are read
    model: str
    prompt: str
    seed: int = 0
    size: int | str | None = None
    source: str = ""
    backend: str = ""
    dtype: str = "auto"
    vae: str = "vae"
    strength: float | None = None
    steps: int | None = None
    control: str = "none"
    edges: str = "soft"
    control_scale: float | None = None
    background: str = BACKGROUND
    fit: Fit = "crop"
    loras: tuple[str, ...] = ()
    lora_scale: float = 1.0


# Live parameters that are no part of a request: they concern a picture among others.
_ASKED = {each.name for each in fields(Still)} | {*PLACES}  # the prompt says its place
OF_SESSION = tuple(name for name in TABLE if name not in _ASKED)


class Recipe:
    """What all pictures of one run have in common.

    settings: texts of the backend's own settings, by field, as `parse_texts` reads them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: BackendSpec,
        settings: Mapping[str, str],
        request: Still,
    ) -> None:
        self.checkpoint = checkpoint
        self.backend = backend
        self.settings = dict(settings)
        self.request = _shareable(request, checkpoint)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """sha256 of the weights; a file that was not hashed before takes seconds."""
        checkpoint = self.checkpoint
        files = {"unet": checkpoint.unet_weights, "vae": checkpoint.vae_weights}
        if checkpoint.control:
            files["control"] = checkpoint.control.weights
        files |= {f"lora {lora.name}": lora.path for lora in checkpoint.loras}
        found = {what: remembered_sha256(path) for what, path in files.items()}
        return found | {"text encoder": encoder_hash(checkpoint)}

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of Python and of the packages that the picture depends on."""
        return {"python": platform.python_version(), **versions_of([self.backend])}

    def record(
        self,
        request: Still,
        described: Description,
        picture: np.ndarray,
        source_hash: str = "",
        more: Record | None = None,
    ) -> dict[str, object]:
        """Return the record of one picture, uint8 (H, W, 3) RGB, as JSON takes it.

        request: of this picture. described: the backend that rendered it. source_hash: sha256 of
        the file that it was painted over, or ''. more: `source` and `live`, see `live.record`.
        """
        checkpoint, request = self.checkpoint, _shareable(request, self.checkpoint)
        hashes = self.hashes | {
            "pixels": hashlib.sha256(np.ascontiguousarray(picture).data).hexdigest()
        }
        return {
            "schema": SCHEMA,
            "sdxs": self.versions["sdxs"],
            "prompt": request.prompt,
            "seed": request.seed,
            "model": request.model,
            "origin": checkpoint.origin,
            "size": request.size,
            "timestep": checkpoint.frame.timestep,
            "steps": checkpoint.frame.steps,
            "backend": facts_of(described),
            "versions": self.versions,
            "hashes": hashes | ({"source": source_hash} if source_hash else {}),
            "request": _written(request),
            "settings": [[name, without_folders(text)] for name, text in self.settings.items()],
            **(more or {}),
        }


def _written(request: Still) -> dict[str, object]:
    """Return a request as JSON takes it; without LoRAs as earlier versions wrote it."""
    found = asdict(request) | {"loras": list(request.loras)}
    if not request.loras:
        del found["loras"], found["lora_scale"]
    return found


def facts_of(described: Description) -> dict[str, object]:
    """Return a backend's facts without what another run has differently."""
    facts = replace(described, processes=()).as_dict()
    return {label: without_folders(text) for label, text in facts.items()}


def _shareable(request: Still, checkpoint: Checkpoint) -> Still:
    control = request.control
    if control not in ("none", "sketch") and checkpoint.control:
        control = checkpoint.control.folder.resolve().name
    return replace(
        request,
        model=checkpoint.name,
        source=Path(request.source).name,
        vae=Path(request.vae).name,
        control=control,
        loras=tuple(lora.spelled() for lora in checkpoint.loras),
    )


def stamped(png: bytes, record: Record) -> bytes:
    """Return a PNG with its record inside."""
    png = with_text(png, PARAMETERS, parameters_of(record), plain=True)
    return with_text(png, KEYWORD, json.dumps(record, ensure_ascii=False))


def parameters_of(record: Record) -> str:
    """Write a record as others read it: the prompt, and below 'Steps: 1, Sampler: Euler, ...'."""
    request, hashes = _part(record, "request"), _part(record, "hashes")
    source, live = _part(record, "source"), _part(record, "live")
    loras = request.get("loras")
    size, control = FrameSize.from_json(record["size"]), request["control"] != "none"
    facts = {
        "Steps": record["steps"],
        "Sampler": SAMPLER,
        "CFG scale": 1,
        "Seed": record["seed"],
        "Size": f"{size.width}x{size.height}",
        "Model hash": str(hashes["unet"])[:HASH_DIGITS],
        "Model": record["model"],
        "Denoising strength": request["strength"],
        "Control": request["control"] if control else None,
        "Control scale": request["control_scale"] if control else None,
        "Edges": request["edges"] if control else None,
        **{
            name.capitalize(): live[name]
            for name in OF_SESSION
            if name in live and live[name] != TABLE[name].default
        },
        "LoRA": " ".join(map(str, loras)) if isinstance(loras, list) else None,
        "LoRA scale": request["lora_scale"] if loras else None,
        "Source": source.get("name"),
        "Frame": source.get("frame"),
        "Backend": _part(record, "backend").get("backend"),
        "Version": f"sdxs {record['sdxs']}",
    }
    shown = ", ".join(
        f"{name}: {_quoted(fact)}" for name, fact in facts.items() if fact is not None
    )
    return f"{' '.join(str(record['prompt']).split())}\n{shown}"


def _part(record: Record, name: str) -> Record:
    found = record.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _quoted(fact: object) -> str:
    """A fact between commas; what would be taken for two is quoted as JSON."""
    text = f"{fact:g}" if isinstance(fact, float) else str(fact)
    special = any(sign in text for sign in ',:\n"')
    return json.dumps(text, ensure_ascii=False) if special else text
