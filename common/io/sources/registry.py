"""Open the source that `--source` names: by kind and rest, as `film:clip.mp4`, or by path.

A new kind is one file and one line in `SOURCES`.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

from ...errors import SdxsWarning, SourceError, UsageError
from ...files import expanded
from ...picture.size import FrameSize, Size
from ...picture.still import BACKGROUND, colour_of, frame_count, why_not_a_file
from ..films.plan import PIPE
from ..kinds import nothing_after, path_after, split_kind, unknown_kind
from .animation import Animation
from .browser import BrowserCamera
from .camera import AS_IT_COMES, Camera
from .camera_modes import CameraRequest
from .cameras import camera_number
from .film import TAKES, VideoFile
from .image import ImageFile
from .ndi_name import open_ndi
from .place import (
    STANDARD_INPUT,
    camera_of_device,
    is_pipe,
    is_url,
    path_of_url,
    spelled,
    without_password,
)
from .protocol import Source
from .screen import KIND as SCREEN
from .screen import open_screen
from .synthetic import Synthetic
from .syphon_name import open_syphon

# what follows the colon, size of frames, repeat, colour behind transparent parts
Opener = Callable[[str, FrameSize, bool, str], Source]


def _camera(
    rest: str,
    _size: FrameSize,
    _repeat: bool,
    _background: str,
    request: CameraRequest = AS_IT_COMES,
) -> Source:
    return Camera(int(rest) if rest.isdecimal() else rest, request)


def _film(rest: str, _size: FrameSize, repeat: bool, background: str) -> Source:
    if rest == STANDARD_INPUT:
        return VideoFile(PIPE, "standard input", False, background)
    if is_url(rest):
        path = path_of_url(rest)
        if path is None:
            return VideoFile(spelled(rest), without_password(rest), repeat, background)
        return open_source(str(path.absolute()), _size, repeat, background)
    path = path_after("--source", "film", rest)
    if is_pipe(path):
        return _of_fifo(path, background)
    if not why_not_a_file(path) and frame_count(path) > 1:
        return Animation(path, repeat, background)
    return VideoFile(path, path.name, repeat, background)


def _of_fifo(path: Path, background: str) -> Source:
    warnings.warn(f"{path}: waiting for a program that writes into it", SdxsWarning, stacklevel=3)
    return VideoFile(str(path), path.name, False, background)


def _image(rest: str, _size: FrameSize, repeat: bool, background: str) -> Source:
    return ImageFile(path_after("--source", "image", rest), repeat, background)


def _synthetic(rest: str, size: FrameSize, _repeat: bool, _background: str) -> Source:
    nothing_after("--source", "synthetic", rest)
    return Synthetic(size)


def _browser(rest: str, size: FrameSize, _repeat: bool, _background: str) -> Source:
    nothing_after("--source", "browser", rest)
    return BrowserCamera(size)


def _screen(rest: str, _size: FrameSize, _repeat: bool, _background: str) -> Source:
    return open_screen(rest)


SOURCES: dict[str, Opener] = {
    "browser": _browser,
    "camera": _camera,
    "film": _film,
    "image": _image,
    "ndi": lambda rest, size, repeat, background: open_ndi(rest),
    SCREEN: _screen,
    "synthetic": _synthetic,
    "syphon": lambda rest, size, repeat, background: open_syphon(rest),
}
_OF_FILES = ("film", "image")


def open_source(
    spec: str,
    size: Size,
    repeat: bool = False,
    background: str = BACKGROUND,
    request: CameraRequest = AS_IT_COMES,
) -> Source:
    """Open what `--source` names. Raises SourceError, UsageError.

    spec: `kind:rest`, a camera number, 'synthetic', or the path of an image or a video, which its
    content tells apart. repeat: make files endless. background: colour behind transparent parts.
    request: asked of a camera; refused for any other source.
    """
    colour_of(background)  # a wrong one is refused whatever the source
    if not spec.strip():
        raise UsageError(
            "--source is empty; expected a camera number, a video, an image or 'synthetic'"
        )
    kind, rest = _kind_of(spec)
    if kind not in SOURCES:
        raise unknown_kind("--source", spec, SOURCES)
    size = FrameSize.of(size)
    if kind == "camera" and request:
        return _camera(rest, size, repeat, background, request)
    request.refuse_for(spec)
    return SOURCES[kind](rest, size, repeat, background)


def source_camera(spec: str) -> int | None:
    """Return the number of the camera that a source names, if it is one.

    Raises UsageError if there is no camera of that name, or more than one.
    """
    kind, rest = ("camera", spec) if spec.isdecimal() else split_kind(spec) or ("", "")
    return camera_number(rest) if kind == "camera" else None


def source_path(spec: str) -> Path | None:
    """The file that a source reads, if it is one."""
    if not spec.strip() or spec.isdecimal() or spec in ("synthetic", STANDARD_INPUT):
        return None
    kind, rest = split_kind(spec) or ("film", spec)
    if is_url(rest):
        return path_of_url(rest)
    return expanded(rest) if kind in _OF_FILES else None


def _kind_of(spec: str) -> tuple[str, str]:
    """Return kind and rest of any spec. Raises SourceError for what is no file."""
    if spec.isdecimal():
        return "camera", spec
    if spec == "synthetic":
        return "synthetic", ""
    if named := split_kind(spec):
        return named
    if spec == STANDARD_INPUT or is_url(spec):
        return "film", spec
    path = expanded(spec)
    camera = camera_of_device(path)
    if camera is not None:
        return "camera", str(camera)
    if is_pipe(path):
        return "film", spec
    obstacle = why_not_a_file(path)
    if obstacle:
        raise SourceError(f"{path}: {obstacle}; {TAKES}")
    return ("image" if frame_count(path) == 1 else "film"), spec
