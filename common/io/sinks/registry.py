"""Open the sink that `--out` names: by kind and rest, as `image:out.png` or `window:`, or by path.

A new kind is one file and one line in `SINKS`.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import SdxsWarning, UsageError
from ...files import Written, expanded
from ..films.formats import CONTAINERS
from ..kinds import nothing_after, path_after, split_kind, unknown_kind
from ..outputs.registry import is_live
from ..outputs.stream_url import shown
from ..sources.image import IMAGE_SUFFIXES
from ..sources.protocol import SoundingSource
from .film import VideoFileSink
from .folder import NAMES, FolderSink
from .image import ImageSink
from .protocol import Sink
from .window import Window

# what follows the colon, frames a second, realtime, codec of a film
Opener = Callable[[str, float, bool, str], Sink]


def _film(rest: str, fps: float, realtime: bool, codec: str) -> Sink:
    return VideoFileSink(_suffixed("film", rest, tuple(CONTAINERS)), fps, realtime, codec)


def _image(rest: str, _fps: float, _realtime: bool, _codec: str) -> Sink:
    return ImageSink(_suffixed("image", rest, IMAGE_SUFFIXES))


def _folder(rest: str, _fps: float, _realtime: bool, _codec: str) -> Sink:
    return FolderSink(path_after("--out", "folder", rest))


def _window(rest: str, _fps: float, _realtime: bool, _codec: str) -> Sink:
    nothing_after("--out", "window", rest)
    return Window()


SINKS: dict[str, Opener] = {
    "film": _film,
    "image": _image,
    "folder": _folder,
    "window": _window,
}
_OF_FILES = ("film", "image", "folder")


def open_sink(spec: str | Path, fps: float, realtime: bool = False, codec: str = "") -> Sink:
    """Open what `--out` names: `kind:rest`, or a path whose suffix says video, image or folder.

    fps, realtime, codec: see `VideoFileSink`. Raises SinkError, UsageError.
    """
    refuse_live(str(spec))
    kind, rest = _kind_of(str(spec))
    if kind not in SINKS:
        raise unknown_kind("--out", str(spec), SINKS)
    return SINKS[kind](rest, fps, realtime, codec)


def refuse_live(spec: str) -> None:
    """Raise UsageError for what is shown live and written nowhere."""
    if is_live(spec):
        raise UsageError(
            f"--out {shown(spec)}: is no file; a live output is named by --to {shown(spec)}"
        )


def is_film(spec: str) -> bool:
    """Whether a sink writes a film. Raises UsageError for a suffix that no sink writes."""
    return _kind_of(spec)[0] == "film"


def names_a_folder(spec: str) -> bool:
    """Whether a name can only be that of a folder: no kind, no suffix of a film or an image."""
    path = expanded(spec)
    known = path.suffix.lower() in (*CONTAINERS, *IMAGE_SUFFIXES)
    return path.is_dir() or not (known or split_kind(spec))


def is_window(spec: str) -> bool:
    """Whether a sink is the window, which keys are pressed in."""
    return (split_kind(spec) or ("", ""))[0] == "window"


def sink_path(spec: str) -> Path | None:
    """The file or folder that a sink writes, if it does."""
    kind, rest = split_kind(spec) or ("folder", spec)
    return expanded(rest) if kind in _OF_FILES else None


def warn_of_silence(source: SoundingSource, outs: Sequence[str], by_source: bool) -> None:
    """Warn of every output that will not hold the sound of its source, with the remedy."""
    for out in outs if source.sound else ():
        kind, rest = _kind_of(out)
        if kind not in ("film", "folder"):
            continue
        reason = _why_silent(source, kind, Path(rest).suffix.lower(), by_source)
        if reason:
            warnings.warn(
                f"{out}: the sound of {source.name} is left out: {reason}", SdxsWarning, 2
            )


def _why_silent(source: SoundingSource, kind: str, suffix: str, by_source: bool) -> str:
    """Say why an output holds no sound, and the remedy; '' if it does."""
    if kind == "folder":
        return "a folder of PNGs holds none; write a film beside it: --out film.mkv"
    if not source.again:
        return "it is read only once; keep it in a file first"
    if not by_source:
        return "a recording in real time has its own clock; add --every-frame"
    if source.sound in CONTAINERS[suffix].audio:
        return ""
    fitting = [name for name, each in CONTAINERS.items() if source.sound in each.audio]
    remedy = f"write {' or '.join(fitting)}" if fitting else "no other container does"
    return f"{suffix} does not take {source.sound}; {remedy}"


def _suffixed(kind: str, rest: str, suffixes: tuple[str, ...]) -> Path:
    path = path_after("--out", kind, rest)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"--out {kind}:{rest}: expected a name ending in {', '.join(suffixes)}")
    return path


def _kind_of(spec: str) -> tuple[str, str]:
    """Return kind and rest of any spec. Raises UsageError for a suffix that no sink writes."""
    if named := split_kind(spec):
        return named
    path = expanded(spec)
    suffix = path.suffix.lower()
    if path.name.lower() in (*CONTAINERS, *IMAGE_SUFFIXES) and not path.is_dir():
        raise UsageError(f"--out {path}: is a suffix without a name; write out{path.name}")
    if path.is_dir() or not suffix:
        return "folder", spec
    if suffix in CONTAINERS:
        return "film", spec
    if suffix in IMAGE_SUFFIXES:
        return "image", spec
    raise UsageError(
        f"--out {path}: unknown kind {suffix!r}; expected a video ({', '.join(CONTAINERS)}), "
        f"an image ({', '.join(IMAGE_SUFFIXES)}) or a folder"
    )


def written_by(spec: str) -> Written | None:
    """What a sink writes, if it writes files; for `refuse_overlaps`."""
    path = sink_path(spec)
    if path is None:
        return None
    named = split_kind(spec)
    folder = named[0] == "folder" if named else path.is_dir() or not path.suffix
    return Written("--out", path, NAMES if folder else "")
