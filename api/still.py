"""Single pictures, rendered as in a live session and repeatable from their own metadata."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.backend.programs import Progress
from ..common.backend.spec import default_backend, spec_of
from ..common.errors import SdxsWarning, SourceError, UsageError
from ..common.picture.size import Fit, FrameSize, Size
from ..common.picture.still import BACKGROUND
from ..common.settings import known_settings, parse_texts
from .model import Model, open_model

if TYPE_CHECKING:
    from ..common.checkpoint.find import Checkpoint

SCHEMA = 1
KEYWORD = "sdxs"


@dataclass(frozen=True, slots=True)
class Still:
    """The request for one picture; see `open_model` and `Model.__call__`.

    source: path of the picture to paint over, or ''. background: colour behind its transparent
    parts. fit: how it fills a frame of other proportions, see `common.picture.image.to_frame_rgb`.
    size: as JSON has it, see `FrameSize.json`.
    """

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


@dataclass(frozen=True, slots=True)
class Made:
    """A rendered picture, uint8 (H, W, 3) RGB, and the record of it that a PNG carries."""

    picture: np.ndarray
    record: dict[str, object]


def render_still(
    still: Still,
    settings: Mapping[str, object] | None = None,
    report: Progress = lambda step, done: None,
) -> Made:
    """Open the model, render one picture, close it. Raises SdxsError.

    settings, report: see `open_model`.
    """
    still = replace(still, backend=still.backend or default_backend())
    frame, source_hash = None, ""
    with open_model(
        still.model,
        still.backend,
        still.size,
        still.dtype,
        still.vae,
        still.strength,
        still.steps,
        still.control,
        still.edges,
        settings,
        still=True,
        report=report,
    ) as model:
        if still.source:
            frame, source_hash = read_picture(
                Path(still.source), model.frame_size, still.background, still.fit
            )
        picture = model(frame, still.prompt, still.seed, control_scale=still.control_scale)
        return Made(picture, _record(still, model, picture, source_hash, settings or {}))


def read_picture(
    path: Path, size: Size, background: str = BACKGROUND, fit: Fit = "crop"
) -> tuple[np.ndarray, str]:
    """Read an image as a frame, uint8 (H, W, 3) RGB, and the file's sha256.

    background: see `common.picture.still.read_image`. fit: see `Still`. Raises SourceError,
    UsageError.
    """
    from ..common.checkpoint.tensors import sha256
    from ..common.io.sources.image import ImageFile
    from ..common.picture.image import to_frame_rgb

    picture = ImageFile(path, background=background).read()
    assert picture is not None
    frame = np.empty((*FrameSize.of(size).shape, 3), np.uint8)
    to_frame_rgb(picture, frame, fit=fit)
    return frame, sha256(path)


def write_still(made: Made, path: Path) -> None:
    """Write a PNG with its record inside.

    Raises UsageError for another suffix, SinkError if it cannot be written.
    """
    from ..common.files import write_whole
    from ..common.picture.opencv import cv2
    from ..common.picture.png_text import with_text

    check_out(path, force=True)
    ok, data = cv2.imencode(".png", cv2.cvtColor(made.picture, cv2.COLOR_RGB2BGR))
    assert ok
    write_whole(
        path, with_text(data.tobytes(), KEYWORD, json.dumps(made.record, ensure_ascii=False))
    )


def free_name(path: Path) -> Path:
    """Return `path`, or with a number the next name that no file has: sdxs-2.png."""
    number, free = 2, path
    while free.exists():
        free, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return free


def check_out(path: Path, force: bool = False) -> None:
    """Raise UsageError unless the file holds metadata, SinkError unless it is writable.

    force: replace a file that is there. Raises UsageError otherwise.
    """
    from ..common.files import check_writable

    if path.suffix.lower() != ".png":
        raise UsageError(
            f"--out {path}: expected a .png, which carries prompt, seed and hashes of the picture"
        )
    check_writable(path, path.absolute().parent)
    if path.exists() and not force:
        raise UsageError(f"--out {path}: exists already; add --force, or name another file")


def read_record(path: Path) -> dict[str, object]:
    """Read the record inside a PNG.

    Raises SourceError if there is none or it is damaged, UsageError for a newer version's.
    """
    from ..common.picture.png_text import read_text

    text = read_text(path, KEYWORD)
    if text is None:
        raise SourceError(
            f"{path}: carries no record of sdxs; it was made by something else, or saved again "
            "without it"
        )
    try:
        record = json.loads(text)
        schema = record["schema"]
        known = {**record, "request": dict(record["request"]), "hashes": dict(record["hashes"])}
        if not isinstance(schema, int) or isinstance(schema, bool):
            raise ValueError(f"schema {schema!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(
            f"{path}: its record is damaged ({error}); the picture cannot be repeated from it"
        ) from None
    if schema > SCHEMA:
        raise UsageError(
            f"{path}: its record is schema {schema}, written by sdxs "
            f"{record.get('sdxs', 'of a later version')}; this version "
            f"reads up to {SCHEMA}; update sdxs to repeat the picture"
        )
    return known


def repeat_still(
    path: Path,
    source: str = "",
    model: str = "",
    settings: Mapping[str, object] | None = None,
) -> Made:
    """Render the picture of a record again and compare.

    source, model: their present places, where they have moved.

    Raises UsageError if weights or source are not those of then; warns if the pictures differ all
    the same.
    """
    record = read_record(path)
    try:
        still = Still(**record["request"])  # type: ignore[arg-type]
        texts = {str(name): str(value) for name, value in record["settings"]}  # type: ignore[attr-defined]
    except (TypeError, KeyError, ValueError) as error:
        raise SourceError(
            f"{path}: its record is damaged ({error}); the picture cannot be repeated from it"
        ) from None
    still = replace(still, source=source or still.source, model=model or still.model)
    if settings is None:
        spec = spec_of(still.backend or default_backend())
        settings = parse_texts(spec.options, texts, spec.name)
    made = render_still(still, settings)
    then, now = record["hashes"], made.record["hashes"]
    assert isinstance(then, dict) and isinstance(now, dict)
    for what in sorted(then.keys() | now.keys()):
        if what != "pixels" and then.get(what) != now.get(what):
            raise UsageError(
                f"{path}: {what} was {str(then.get(what))[:12]} and is {str(now.get(what))[:12]} "
                "now; the picture cannot be "
                "repeated with it; name that of then with --model or --input"
            )
    if then.get("pixels") != now["pixels"]:
        changed = [
            f"{key} {record.get(key)}, now {made.record[key]}"
            for key in ("sdxs", "backend")
            if record.get(key) != made.record[key]
        ]
        warnings.warn(
            f"the picture is not bit for bit that of {path.name}: "
            f"{'; '.join(changed) or 'the machine computes otherwise'}",
            SdxsWarning,
            stacklevel=2,
        )
    return made


def _record(
    still: Still,
    model: Model,
    picture: np.ndarray,
    source_hash: str,
    settings: Mapping[str, object],
) -> dict[str, object]:
    checkpoint, spec = model.checkpoint, spec_of(still.backend)
    known = known_settings(spec.options, settings, spec.name)
    hashes = _weights_hashes(checkpoint) | {"pixels": hashlib.sha256(picture.tobytes()).hexdigest()}
    if source_hash:
        hashes["source"] = source_hash
    return {
        "schema": SCHEMA,
        "sdxs": metadata.version("sdxs"),
        "prompt": still.prompt,
        "seed": still.seed,
        "model": checkpoint.name,
        "size": model.frame_size.json,
        "timestep": checkpoint.frame.timestep,
        "steps": checkpoint.frame.steps,
        "backend": model.describe(),
        "hashes": hashes,
        "request": asdict(replace(still, size=model.frame_size.json)),
        "settings": [[name, known[name].text(value)] for name, value in settings.items()],
    }


def _weights_hashes(checkpoint: "Checkpoint") -> dict[str, str]:
    from ..common.checkpoint.manifest import remembered_sha256
    from ..common.prompt.cache import encoder_hash

    files = {"unet": checkpoint.unet_weights, "vae": checkpoint.vae_weights}
    if checkpoint.control:
        files["control"] = checkpoint.control.weights
    found = {what: remembered_sha256(path) for what, path in files.items()}
    return found | {"text encoder": encoder_hash(checkpoint)}
