"""Open the source that `--source` names."""

from pathlib import Path

from ...errors import SourceError, UsageError
from .camera import Camera
from .film import VideoFile
from .image import IMAGE_SUFFIXES, ImageFile
from .protocol import Source
from .synthetic import Synthetic


def open_source(spec: str, size: int, repeat: bool = False) -> Source:
    """Open what `--source` names. Raises SourceError, UsageError.

    spec: a camera number, 'synthetic', or the path of an image or a video. `repeat` makes files
    endless.
    """
    if spec.isdecimal():
        return Camera(int(spec))
    if spec == "synthetic":
        return Synthetic(size)
    if not spec.strip():
        raise UsageError(
            "--source is empty; expected a camera number, a video, an image or 'synthetic'"
        )
    path = Path(spec).expanduser()
    if path.is_dir():
        raise SourceError(
            f"{path}: is a folder; --source takes one file of it, a camera number or 'synthetic'"
        )
    return (
        ImageFile(path, repeat)
        if path.suffix.lower() in IMAGE_SUFFIXES
        else VideoFile(path, repeat)
    )
