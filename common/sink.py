"""Where pictures go: a video file, an image, a folder of PNGs, a window.

Files are written under a temporary name and renamed when they are whole, and nothing is
created before the first picture arrives.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np

from .errors import SinkError, UsageError
from .opencv import cv2
from .source import IMAGE_SUFFIXES

DISK_CHECK_FRAMES = 30
LEAST_FREE_BYTES = 50_000_000
VIDEO_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


class Sink(Protocol):
    """Takes uint8 (H, W, 3) RGB pictures of one size."""

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        """Take one picture, shown at `shown_ns` (perf_counter_ns); the array may be reused afterwards. Raises SinkError."""

    def close(self) -> None:
        """Finish and keep what was written; calling it again does nothing."""


class VideoFileSink:
    """A video file, playable however the session ends.

    realtime: repeat or leave out pictures so that the video lasts as long as the session did;
    otherwise every picture becomes one frame.
    """

    def __init__(self, path: Path, fps: float, realtime: bool = False) -> None:
        """Raise SinkError if the folder cannot be written; the file appears with the first picture."""
        self._path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._fps = fps
        self._realtime = realtime
        self._writer: cv2.VideoWriter | None = None
        self._began_ns = 0
        self._written = 0
        check_writable(path, path.absolute().parent)

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        if self._writer is None:
            self._writer = self._open(picture.shape[1], picture.shape[0])
            self._began_ns = shown_ns
        due = 1
        if self._realtime:
            due = int((shown_ns - self._began_ns) / 1e9 * self._fps) + 1 - self._written
        if due > 0 and self._written % DISK_CHECK_FRAMES == 0:
            self._check_space()
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if due > 0 else None
        for _ in range(due):
            self._writer.write(bgr)
            self._written += 1

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        codec = VIDEO_CODECS[self._path.suffix.lower()]
        # avc1 plays in every browser; only macOS brings an encoder for it
        for name in ("avc1", codec) if sys.platform == "darwin" and codec == "mp4v" else (codec,):
            writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*name), self._fps, (width, height))
            if writer.isOpened():
                return writer
        raise SinkError(
            f"{self._path}: no encoder for a {width} x {height} {self._path.suffix} video; try .avi or a folder of PNGs"
        )

    def _check_space(self) -> None:
        # OpenCV's writer reports no errors, so a full disk has to be seen before it is met
        free = shutil.disk_usage(self._path.absolute().parent).free
        if free < LEAST_FREE_BYTES:
            raise SinkError(
                f"{self._path}: the disk is full ({free / 1e6:.0f} MB left); what was recorded until now is kept; "
                "free space or record elsewhere"
            )

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
        check_writable(path, path.absolute().parent)

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
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
        check_writable(path / "frame-000001.png", path if path.is_dir() else path.absolute().parent)

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        self._path.mkdir(exist_ok=True)
        self._count += 1
        save_image(self._path / f"frame-{self._count:06d}.png", picture)

    def close(self) -> None:
        pass  # every file is whole


class Window:
    """A window on the screen. Everything here belongs on the main thread."""

    TITLE = "sdxs"

    def __init__(self) -> None:
        """Raise SinkError where a window cannot be shown; OpenCV itself would abort the process."""
        reason = window_obstacle()
        if reason:
            raise SinkError(f"no window can be shown: {reason}; add --headless and --out FILE")
        self._shown = False
        cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        if not self._shown:
            cv2.resizeWindow(self.TITLE, *fit(picture.shape[1], picture.shape[0]))
            self._shown = True
        cv2.imshow(self.TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._keys = cv2.pollKey()  # paints

    def key(self) -> int | None:
        """Return the next key pressed, as its low byte, or None. The title bar's close button counts as escape."""
        key, self._keys = getattr(self, "_keys", -1), -1
        key = key if key != -1 else cv2.pollKey()
        if key != -1:
            return int(key & 0xFF)
        if self._shown and cv2.getWindowProperty(self.TITLE, cv2.WND_PROP_VISIBLE) < 1:
            return 27
        return None

    def close(self) -> None:
        cv2.destroyAllWindows()


def fit(width: int, height: int, least: int = 720) -> tuple[int, int]:
    """Scale small pictures up so that the window is at least `least` pixels high."""
    factor = max(1.0, least / height)
    return round(width * factor), round(height * factor)


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
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not ok:
        raise SinkError(f"{path}: OpenCV cannot encode {path.suffix}; use .png or .jpg")
    write_whole(path, data.tobytes())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. Raises SinkError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SinkError(f"{path}: cannot be written ({error.strerror}); free space or name another place") from None


def open_sink(path: Path, fps: float, realtime: bool = False) -> Sink:
    """Open what `--out` names, by its suffix: a video, an image, or a folder. Raises SinkError, UsageError.

    fps, realtime: see `VideoFileSink`.
    """
    path = path.expanduser()
    suffix = path.suffix.lower()
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


def check_writable(path: Path, folder: Path) -> None:
    """Create nothing, but raise SinkError unless a file can be made in `folder`; only trying tells (mounts, quotas, root)."""
    if path.is_dir():
        raise SinkError(f"{path}: is a folder, expected a file name; add one, or drop the suffix to write a folder of PNGs")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SinkError(f"{path}: cannot be written to {folder} ({error.strerror}); create it or name another place") from None
