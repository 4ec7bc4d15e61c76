"""Open the source that `--source` names: by kind and rest, as `film:clip.mp4`, or by path.

A new kind is one file and one line in `SOURCES`.
"""

from collections.abc import Callable
from pathlib import Path

from ...errors import SourceError, UsageError
from ...picture.size import FrameSize, Size
from ...picture.still import BACKGROUND, colour_of, frame_count, why_not_a_file
from ..kinds import nothing_after, path_after, split_kind, unknown_kind
from .animation import Animation
from .camera import Camera
from .film import VideoFile
from .image import ImageFile
from .protocol import Source
from .synthetic import Synthetic

# what follows the colon, size of frames, repeat, colour behind transparent parts
Opener = Callable[[str, FrameSize, bool, str], Source]


def _camera(rest: str, _size: FrameSize, _repeat: bool, _background: str) -> Source:
    if not rest.isdecimal():
        raise UsageError(f"--source camera:{rest}: expected the number of a camera, as camera:0")
    return Camera(int(rest))


def _film(rest: str, _size: FrameSize, repeat: bool, background: str) -> Source:
    path = path_after("--source", "film", rest)
    if not why_not_a_file(path) and frame_count(path) > 1:
        return Animation(path, repeat, background)
    return VideoFile(path, repeat)


def _image(rest: str, _size: FrameSize, repeat: bool, background: str) -> Source:
    return ImageFile(path_after("--source", "image", rest), repeat, background)


def _synthetic(rest: str, size: FrameSize, _repeat: bool, _background: str) -> Source:
    nothing_after("--source", "synthetic", rest)
    return Synthetic(size)


SOURCES: dict[str, Opener] = {
    "camera": _camera,
    "film": _film,
    "image": _image,
    "synthetic": _synthetic,
}
_OF_FILES = ("film", "image")


def open_source(
    spec: str, size: Size, repeat: bool = False, background: str = BACKGROUND
) -> Source:
    """Open what `--source` names. Raises SourceError, UsageError.

    spec: `kind:rest`, a camera number, 'synthetic', or the path of an image or a video, which its
    content tells apart. repeat: make files endless. background: colour behind transparent parts.
    """
    colour_of(background)  # a wrong one is refused whatever the source
    if not spec.strip():
        raise UsageError(
            "--source is empty; expected a camera number, a video, an image or 'synthetic'"
        )
    kind, rest = _kind_of(spec)
    if kind not in SOURCES:
        raise unknown_kind("--source", spec, SOURCES)
    return SOURCES[kind](rest, FrameSize.of(size), repeat, background)


def source_camera(spec: str) -> int | None:
    """Return the number of the camera that a source names, if it is one."""
    rest = spec.removeprefix("camera:")
    return int(rest) if rest.isdecimal() else None


def source_path(spec: str) -> Path | None:
    """The file that a source reads, if it is one."""
    if not spec.strip() or spec.isdecimal() or spec == "synthetic":
        return None
    kind, rest = split_kind(spec) or ("film", spec)
    return Path(rest).expanduser() if kind in _OF_FILES else None


def _kind_of(spec: str) -> tuple[str, str]:
    """Return kind and rest of any spec. Raises SourceError for what is no file."""
    if spec.isdecimal():
        return "camera", spec
    if spec == "synthetic":
        return "synthetic", ""
    if named := split_kind(spec):
        return named
    path = Path(spec).expanduser()
    obstacle = why_not_a_file(path)
    if obstacle:
        raise SourceError(
            f"{path}: {obstacle}; --source takes a camera number, a video, an image or 'synthetic'"
        )
    return ("image" if frame_count(path) == 1 else "film"), spec
