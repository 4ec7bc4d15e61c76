"""Single pictures, rendered as in a live session; each PNG says how it was made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..common.backend.programs import Progress
from ..common.backend.spec import default_backend, spec_of
from ..common.checkpoint.tensors import sha256
from ..common.errors import SourceError, UsageError
from ..common.files import check_writable
from ..common.io.sinks.image import save_image
from ..common.io.sources.image import ImageFile
from ..common.io.sources.registry import open_source
from ..common.limits import shortages
from ..common.picture.image import to_frame_rgb
from ..common.picture.png_text import read_text
from ..common.picture.record import KEYWORD, SCHEMA, Recipe, Still, stamped
from ..common.picture.size import Fit, FrameSize, Size
from ..common.picture.still import BACKGROUND
from ..common.picture.stored import (
    Damaged,
    OfLaterVersion,
    StoredRecord,
    check_request,
    read_stored,
)
from ..common.picture.temporal import Smoother
from ..common.settings import known_settings
from .model import Model, open_model

__all__ = ["KEYWORD", "SCHEMA", "Still"]
SYNTHETIC = "synthetic"


@dataclass(frozen=True, slots=True)
class Made:
    """A rendered picture, uint8 (H, W, 3) RGB, and the record of it that a PNG carries."""

    picture: np.ndarray
    record: dict[str, object]


@dataclass(frozen=True, slots=True)
class Taken:
    """How a live session took one frame from its source, and mixed that into the picture.

    kind: of the source. number: of the frame, from 0.
    """

    kind: str = "image"
    number: int = 0
    mirror: bool = False
    blend: float = 0.0


@shortages()
def render_still(
    still: Still,
    settings: Mapping[str, object] | None = None,
    report: Progress = lambda step, done: None,
    taken: Taken | None = None,
    more: Mapping[str, object] | None = None,
    lora_partial: bool = False,
) -> Made:
    """Open the model, render one picture, close it. Raises SdxsError.

    settings, report: see `open_model`. taken: by default a picture of its own. more: what the
    record says of source and session, if that is not a picture of its own.
    """
    check_request(still)
    still = replace(still, backend=still.backend or default_backend())
    taken = taken or Taken()
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
        lora=still.loras,
        lora_partial=lora_partial,
    ) as model:
        if still.source or taken.kind == SYNTHETIC:
            frame, source_hash = read_frame(still, model.frame_size, taken)
        _refuse_missing(still, model, frame is not None)
        picture = model(
            frame,
            still.prompt,
            still.seed,
            control_scale=still.control_scale,
            lora_scale=still.lora_scale,
        )
        if frame is not None:
            Smoother(model.frame_size).apply(picture, frame, 0.0, taken.blend)
        spec = spec_of(still.backend)
        known = known_settings(spec.options, settings or {}, spec.name)
        texts = {name: known[name].text(value) for name, value in (settings or {}).items()}
        request = replace(still, size=model.frame_size.json)
        recipe = Recipe(model.checkpoint, spec, texts, request)
        if more is None and still.source:
            more = {"source": {"kind": taken.kind, "name": Path(still.source).name}}
        described = model.backend.describe()
        return Made(picture, recipe.record(request, described, picture, source_hash, more))


def _refuse_missing(still: Still, model: Model, has_frame: bool) -> None:
    """Raise UsageError for a picture that needs an input, or a control, which it has not."""
    checkpoint = model.checkpoint
    if not (has_frame or checkpoint.frame.noise_scale):
        raise UsageError(
            f"{checkpoint.name} paints over a picture and starts from no noise, so it cannot paint "
            "from --prompt alone; add --input FILE"
        )
    if still.control_scale and not (has_frame and checkpoint.control):
        missing = [
            *(() if has_frame else ("--input FILE",)),
            *(() if checkpoint.control else ("--control sketch",)),
        ]
        raise UsageError(
            f"--control-scale {still.control_scale:g}: there are no edges to hold to; add "
            f"{' and '.join(missing)}"
        )


def read_frame(still: Still, size: Size, taken: Taken) -> tuple[np.ndarray, str]:
    """Read the picture to paint over, uint8 (H, W, 3) RGB, and the sha256 of its file.

    Raises SourceError, UsageError.
    """
    if taken.kind == "image":
        return read_picture(Path(still.source), size, still.background, taken.mirror, still.fit)
    named = f"{taken.kind}:{still.source}" if still.source else taken.kind
    source = open_source(named, size, repeat=True, background=still.background)
    try:
        for _ in range(taken.number + 1):
            picture = source.read()
    finally:
        source.close()
    assert picture is not None
    frame = np.empty((*FrameSize.of(size).shape, 3), np.uint8)
    to_frame_rgb(picture, frame, taken.mirror, still.fit)
    return frame, sha256(Path(still.source)) if still.source else ""


def read_picture(
    path: Path,
    size: Size,
    background: str = BACKGROUND,
    mirror: bool = False,
    fit: Fit = "crop",
) -> tuple[np.ndarray, str]:
    """Read an image as a frame, uint8 (H, W, 3) RGB, and the file's sha256.

    background: see `common.picture.still.read_image`. fit: see `Still`. Raises SourceError,
    UsageError.
    """
    picture = ImageFile(path, background=background).read()
    assert picture is not None
    frame = np.empty((*FrameSize.of(size).shape, 3), np.uint8)
    to_frame_rgb(picture, frame, mirror, fit)
    return frame, sha256(path)


@shortages()
def write_still(made: Made, path: Path) -> None:
    """Write a PNG with its record inside.

    Raises UsageError for another suffix, SinkError if it cannot be written.
    """
    check_out(path, force=True)
    save_image(path, made.picture, lambda png, _: stamped(png, made.record))


def check_out(path: Path, force: bool = False) -> None:
    """Raise UsageError unless the file holds metadata, SinkError unless it is writable.

    force: replace a file that is there. Raises UsageError otherwise.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(
            f"--out {path}: expected a .png, which carries prompt, seed and hashes of the picture"
        )
    check_writable(path, path.absolute().parent)
    if path.exists() and not force:
        raise UsageError(f"--out {path}: exists already; add --force, or name another file")


def read_record(path: Path) -> dict[str, object]:
    """Read the record inside a PNG. Raises as `stored_in`."""
    return stored_in(path)[1]


def stored_in(path: Path) -> tuple[StoredRecord, dict[str, object]]:
    """Read the record inside a PNG: what is checked of it, and all of it.

    Raises SourceError if there is none or it is damaged, UsageError for a newer version's.
    """
    text = read_text(path, KEYWORD)
    if text is None:
        raise SourceError(
            f"{path}: carries no record of sdxs; it was made by something else, or saved again "
            "without it"
        )
    try:
        return read_stored(text)
    except OfLaterVersion as later:
        raise UsageError(
            f"{path}: {later}; this version reads up to {SCHEMA}; update sdxs to repeat the picture"
        ) from None
    except Damaged as error:
        raise SourceError(
            f"{path}: its record is damaged ({error}); the picture cannot be repeated from it; "
            "take another copy of it"
        ) from None
