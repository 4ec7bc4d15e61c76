"""Open the sink that `--out` names."""

from pathlib import Path

from ...errors import UsageError
from ..sources.image import IMAGE_SUFFIXES
from .film import VIDEO_CODECS, VideoFileSink
from .folder import FolderSink
from .image import ImageSink
from .protocol import Sink


def open_sink(path: Path, fps: float, realtime: bool = False) -> Sink:
    """Open what `--out` names, by its suffix: a video, an image, or a folder. Raises SinkError,
    UsageError.

    fps, realtime: see `VideoFileSink`.
    """
    path = path.expanduser()
    suffix = path.suffix.lower()
    if path.name.lower() in (*VIDEO_CODECS, *IMAGE_SUFFIXES) and not path.is_dir():
        raise UsageError(f"--out {path}: is a suffix without a name; write out{path.name}")
    if path.is_dir() or not suffix:
        return FolderSink(path)
    if suffix in VIDEO_CODECS:
        return VideoFileSink(path, fps, realtime)
    if suffix in IMAGE_SUFFIXES:
        return ImageSink(path)
    raise UsageError(
        f"--out {path}: unknown kind {suffix!r}; expected a video ({', '.join(VIDEO_CODECS)}), "
        f"an image ({', '.join(IMAGE_SUFFIXES)}) or a folder"
    )
