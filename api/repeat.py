"""Pictures rendered again from the record inside their PNG, of `sdxs image` and of a session."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..common.adapt.loras import read_loras
from ..common.backend.spec import default_backend, spec_of
from ..common.errors import SdxsWarning, SourceError, UsageError, in_a_line
from ..common.files import expanded, is_file, is_folder
from ..common.limits import shortages
from ..common.picture.record import Still
from ..common.picture.stored import StoredRecord
from ..common.settings import parse_texts
from .still import SYNTHETIC, Made, Taken, render_still, stored_in

REPEATED = ("image", "film", SYNTHETIC)  # kinds of sources that give a frame again


@dataclass(frozen=True, slots=True)
class Places:
    """The present places of what a record names; '' looks beside the PNG and in this folder."""

    source: str = ""
    model: str = ""
    control: str = ""
    loras: tuple[str, ...] = ()


@shortages()
def repeat_still(
    path: Path, places: Places | None = None, settings: Mapping[str, object] | None = None
) -> Made:
    """Render the picture of a record again and compare.

    settings: of the backend, in place of the record's.

    Raises UsageError if the picture depends on more than its record holds, or if weights or source
    are not those of then; warns if the pictures differ all the same.
    """
    stored, record = stored_in(path)
    still, texts = stored.request, dict(stored.settings)
    if reason := _reason(stored):
        raise UsageError(
            f"{path}: cannot be repeated: {reason}; `sdxs live` with the settings of its record "
            "makes others like it"
        )
    still = _placed(path, still, places or Places(), stored.origin)
    if settings is None:
        spec = spec_of(still.backend or default_backend())
        settings = parse_texts(spec.options, texts, spec.name)
    more: dict[str, object] = {name: record[name] for name in ("source", "live") if name in record}
    made = render_still(still, settings, taken=_taken(stored), more=more, lora_partial=True)
    _compare(path, stored, made)
    return made


def _reason(record: StoredRecord) -> str:
    """Return what a picture of a session depends on beside its record, or ''."""
    live, source, still = record.live, record.source, record.request
    if live is None or source is None:
        return ""
    if source.kind not in REPEATED:
        return f"it is a frame of {source.name}, which nothing gives again"
    if live.beside:
        return "it shows the pictures of two backends"
    if live.view != "output":
        return f"it shows more than the picture (view {live.view!r})"
    if live.enlarged:
        return f"it was enlarged to {live.enlarged} (--show-size)"
    if live.feedback > 0:
        return f"feedback {live.feedback:g} let the frames before it in"
    if live.ema > 0:
        return f"smoothing (ema {live.ema:g}) let the frames before it in"
    if live.gliding:
        return "its prompt was on the way from another one"
    if live.reused and live.skip > 0:
        return f"it is the picture of an earlier frame (skip {live.skip:g})"
    if still.control_scale and source.kind != "image" and source.frame > 0:
        return "its edges depend on the frames before it"
    return ""


def _taken(record: StoredRecord) -> Taken:
    live, source = record.live, record.source
    if live is None or source is None:
        return Taken()
    return Taken(source.kind, source.frame, live.mirror, live.blend)


def _placed(path: Path, still: Still, places: Places, origin: str) -> Still:
    """Return the request with present places: records name files without their folders.

    Raises UsageError or SourceError for what is not found.
    """
    source, model = places.source or still.source, places.model or still.model
    control = places.control or still.control
    if origin == "path" and not places.model and not is_folder(Path(model)):
        raise UsageError(
            f"{path}: was made with a checkpoint in a folder {model!r}, which is not here; name "
            "its place with --model"
        )
    if control not in ("none", "sketch") and not is_folder(expanded(control)):
        raise UsageError(
            f"{path}: was made with a ControlNet in a folder {control!r}, which is not here; name "
            "its place with --control"
        )
    if source and not places.source:
        beside = [folder / source for folder in (path.parent, Path())]
        found = next((each for each in beside if is_file(each)), None)
        if found is None:
            raise SourceError(
                f"{source}: no such file beside {path} or in this folder; name the picture's "
                "source with --input"
            )
        source = str(found)
    loras = tuple(_lora(path, text, places.loras) for text in still.loras)
    return replace(still, source=source, model=model, control=control, loras=loras)


def _lora(path: Path, text: str, given: Sequence[str]) -> str:
    """Return a LoRA of a record with its present place. Raises UsageError."""
    name, _, weight = text.rpartition(":")
    places = [lora.path for lora in read_loras(given)]
    places += [folder / name for folder in (path.parent, Path())]
    found = next((each for each in places if each.name == name and is_file(each)), None)
    if found is None:
        raise UsageError(
            f"{path}: was made with the LoRA {name!r}, which is neither beside it nor in this "
            "folder; name its place with --lora"
        )
    return f"{found}:{weight}"


def _compare(path: Path, record: StoredRecord, made: Made) -> None:
    """Raise UsageError unless weights and source are those of then; warn of other pixels."""
    then, now = record.hashes, made.record["hashes"]
    assert isinstance(now, dict)
    for what in sorted(then.keys() | now.keys()):
        if what != "pixels" and then.get(what) != now.get(what):
            raise UsageError(
                f"{path}: {what} was {str(then.get(what))[:12]} and is {str(now.get(what))[:12]} "
                "now; the picture cannot be "
                "repeated with it; name that of then with --model or --input"
            )
    if then.get("pixels") != now["pixels"]:
        changed = [
            f"{key} {in_a_line(before)}, now {made.record[key]}"
            for key, before in (("sdxs", record.sdxs), ("backend", record.backend))
            if before != made.record[key]
        ]
        warnings.warn(
            f"the picture is not bit for bit that of {path.name}: "
            f"{'; '.join(changed) or 'the machine computes otherwise'}",
            SdxsWarning,
            stacklevel=3,
        )
