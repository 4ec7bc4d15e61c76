"""Where pictures go: a video file, an image, a folder of PNGs, a window.

Files are written under a temporary name and renamed when they are whole, and nothing is
created before the first picture arrives.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np

from .errors import SinkError, UsageError
from .opencv import cv2
from .source import IMAGE_SUFFIXES

VIDEO_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


class Sink(Protocol):
    """Takes uint8 (H, W, 3) RGB pictures of one size."""

    def write(self, picture: np.ndarray) -> None:
        """Take one picture; the array may be reused afterwards. Raises SinkError."""

    def close(self) -> None:
        """Finish and keep what was written; calling it again does nothing."""


class VideoFileSink:
    """A video file, playable however the session ends."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None
        _check_writable(path, path.absolute().parent)

    def write(self, picture: np.ndarray) -> None:
        if self._writer is None:
            self._writer = self._open(picture.shape[1], picture.shape[0])
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        codec = VIDEO_CODECS[self._path.suffix.lower()]
        # avc1 plays in every browser; only macOS brings an encoder for it
        for name in ("avc1", codec) if sys.platform == "darwin" and codec == "mp4v" else (codec,):
            writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*name), self._fps, (width, height))
            if writer.isOpened():
                return writer
        raise SinkError(f"{self._path}: no encoder for a {width} x {height} {self._path.suffix} video; try .avi or a folder")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._partial.replace(self._path)


class ImageSink:
    """One image file: the last picture of the session."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: np.ndarray | None = None
        _check_writable(path, path.absolute().parent)

    def write(self, picture: np.ndarray) -> None:
        if self._last is None:
            self._last = np.empty_like(picture)
        np.copyto(self._last, picture)

    def close(self) -> None:
        if self._last is not None:
            save_image(self._path, self._last)
            self._last = None


class FolderSink:
    """A folder of numbered PNGs, frame-000001.png onwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        if path.exists() and any(path.glob("frame-*.png")):
            raise SinkError(f"{path}: already holds frames of another session; name a new folder or empty this one")
        _check_writable(path / "frame-000001.png", path if path.is_dir() else path.absolute().parent)

    def write(self, picture: np.ndarray) -> None:
        self._path.mkdir(exist_ok=True)
        self._count += 1
        save_image(self._path / f"frame-{self._count:06d}.png", picture)

    def close(self) -> None:
        pass  # every file is whole


class Window:
    """A window on the screen; `closed` turns true when the user presses q or escape."""

    TITLE = "sdxs"

    def __init__(self) -> None:
        """Raise SinkError where a window cannot be shown; OpenCV itself would abort the process."""
        reason = window_obstacle()
        if reason:
            raise SinkError(f"no window can be shown: {reason}; add --headless and --out FILE")
        self.closed = False
        cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def write(self, picture: np.ndarray) -> None:
        cv2.imshow(self.TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
            self.closed = True

    def close(self) -> None:
        cv2.destroyAllWindows()


def window_obstacle() -> str:
    """Say what stands in the way of a window, or nothing."""
    gui = next((line for line in cv2.getBuildInformation().splitlines() if "GUI:" in line), "")
    if "NONE" in gui:
        return "this OpenCV is the headless build (`pip install opencv-python` brings the other)"
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    return ""


def save_image(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture whole or not at all. Raises SinkError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        ok, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if not ok:
            raise SinkError(f"{path}: OpenCV cannot encode {path.suffix}; use .png or .jpg")
        partial.write_bytes(data.tobytes())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SinkError(f"{path}: cannot be written ({error.strerror}); free space or name another place") from None


def open_sink(path: Path, fps: float) -> Sink:
    """Open what `--out` names, by its suffix: a video, an image, or a folder. Raises SinkError, UsageError."""
    path = path.expanduser()
    suffix = path.suffix.lower()
    if path.is_dir() or not suffix:
        return FolderSink(path)
    if suffix in VIDEO_CODECS:
        return VideoFileSink(path, fps)
    if suffix in IMAGE_SUFFIXES:
        return ImageSink(path)
    raise UsageError(
        f"--out {path}: unknown kind {suffix!r}; expected a video ({', '.join(VIDEO_CODECS)}), "
        f"an image ({', '.join(IMAGE_SUFFIXES)}) or a folder"
    )


def _check_writable(path: Path, folder: Path) -> None:
    """Raise SinkError unless a file can be made in `folder`; only trying tells (mounts, quotas, root)."""
    if path.is_dir():
        raise SinkError(f"{path}: is a folder, expected a file name; add one, or drop the suffix to write a folder of PNGs")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SinkError(f"{path}: cannot be written to {folder} ({error.strerror}); create it or name another place") from None
