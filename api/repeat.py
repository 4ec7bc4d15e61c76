"""Pictures rendered again from the record inside their PNG, of `sdxs image` and of a session."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..common.backend.spec import default_backend, spec_of
from ..common.errors import SdxsWarning, SourceError, UsageError
from ..common.picture.record import Still
from ..common.settings import parse_texts
from .still import SYNTHETIC, Made, Taken, read_record, render_still

REPEATED = ("image", "film", SYNTHETIC)  # kinds of sources that give a frame again


@dataclass(frozen=True, slots=True)
class Places:
    """The present places of what a record names; '' looks beside the PNG and in this folder."""

    source: str = ""
    model: str = ""
    control: str = ""


def repeat_still(
    path: Path, places: Places | None = None, settings: Mapping[str, object] | None = None
) -> Made:
    """Render the picture of a record again and compare.

    settings: of the backend, in place of the record's.

    Raises UsageError if the picture depends on more than its record holds, or if weights or source
    are not those of then; warns if the pictures differ all the same.
    """
    record = read_record(path)
    try:
        still = Still(**record["request"])  # type: ignore[arg-type]
        texts = {str(name): str(value) for name, value in record["settings"]}  # type: ignore[attr-defined]
        reason, taken = _reason(record, still), _taken(record)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{path}: its record is damaged ({error}); the picture cannot be repeated from it"
        ) from None
    if reason:
        raise UsageError(
            f"{path}: cannot be repeated: {reason}; `sdxs live` with the settings of its record "
            "makes others like it"
        )
    still = _placed(path, still, places or Places(), str(record.get("origin", "")))
    if settings is None:
        spec = spec_of(still.backend or default_backend())
        settings = parse_texts(spec.options, texts, spec.name)
    more: dict[str, object] = {name: record[name] for name in ("source", "live") if name in record}
    made = render_still(still, settings, taken=taken, more=more)
    _compare(path, record, made)
    return made


def _reason(record: Mapping[str, object], still: Still) -> str:
    """Return what a picture of a session depends on beside its record, or ''."""
    if "live" not in record:
        return ""
    live, source = dict(record["live"]), dict(record["source"])  # type: ignore[call-overload]
    kind, name = str(source["kind"]), str(source["name"])
    if kind not in REPEATED:
        return f"it is a frame of {name}, which nothing gives again"
    if live.get("beside"):
        return "it shows the pictures of two backends"
    if live["view"] != "output":
        return f"it shows more than the picture (view {live['view']!r})"
    if live.get("enlarged"):
        return f"it was enlarged to {live['enlarged']} (--show-size)"
    if float(live["feedback"]) > 0:
        return f"feedback {live['feedback']:g} let the frames before it in"
    if float(live["ema"]) > 0:
        return f"smoothing (ema {live['ema']:g}) let the frames before it in"
    if live["gliding"]:
        return "its prompt was on the way from another one"
    if live["reused"] and float(live["skip"]) > 0:
        return f"it is the picture of an earlier frame (skip {live['skip']:g})"
    if still.control_scale and kind != "image" and int(source["frame"]) > 0:
        return "its edges depend on the frames before it"
    return ""


def _taken(record: Mapping[str, object]) -> Taken:
    if "live" not in record:
        return Taken()
    live, source = dict(record["live"]), dict(record["source"])  # type: ignore[call-overload]
    number = max(0, int(source["frame"]))
    return Taken(str(source["kind"]), number, bool(live["mirror"]), float(live["blend"]))


def _placed(path: Path, still: Still, places: Places, origin: str) -> Still:
    """Return the request with present places: records name files without their folders.

    Raises UsageError or SourceError for what is not found.
    """
    source, model = places.source or still.source, places.model or still.model
    control = places.control or still.control
    if origin == "path" and not places.model and not Path(model).is_dir():
        raise UsageError(
            f"{path}: was made with a checkpoint in a folder {model!r}, which is not here; name "
            "its place with --model"
        )
    if control not in ("none", "sketch") and not Path(control).expanduser().is_dir():
        raise UsageError(
            f"{path}: was made with a ControlNet in a folder {control!r}, which is not here; name "
            "its place with --control"
        )
    if source and not places.source:
        beside = [folder / source for folder in (path.parent, Path())]
        found = next((each for each in beside if each.is_file()), None)
        if found is None:
            raise SourceError(
                f"{source}: no such file beside {path} or in this folder; name the picture's "
                "source with --input"
            )
        source = str(found)
    return replace(still, source=source, model=model, control=control)


def _compare(path: Path, record: Mapping[str, object], made: Made) -> None:
    """Raise UsageError unless weights and source are those of then; warn of other pixels."""
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
            stacklevel=3,
        )
