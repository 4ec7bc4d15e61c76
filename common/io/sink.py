"""Where pictures go: a video file, an image, a folder of PNGs, a window.

Files are written under a temporary name and renamed when they are whole, and nothing is
created before the first picture arrives.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Protocol

import numpy as np

from ..backend import copies
from ..errors import SinkError, UsageError
from ..picture.opencv import cv2
from .source import IMAGE_SUFFIXES

DISK_CHECK_FRAMES = 30
LEAST_FREE_BYTES = 50_000_000
VIDEO_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


class Sink(Protocol):
    """Takes uint8 (H, W, 3) RGB pictures of one size."""

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        """Take one picture, shown at `shown_ns` (perf_counter_ns); the array may be reused
        afterwards. Raises SinkError.
        """

    def close(self) -> None:
        """Finish and keep what was written; calling it again does nothing."""


class VideoFileSink:
    """A video file, playable whenever it was closed; only a kill that cannot be caught leaves the
    temporary file.

    realtime: repeat or leave out pictures so that the video lasts as long as the session did;
    otherwise every picture becomes one frame.
    """

    def __init__(self, path: Path, fps: float, realtime: bool = False) -> None:
        """Raise SinkError if the folder cannot be written; the file appears with the first
        picture.
        """
        self._path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._fps = fps
        self._realtime = realtime
        self._writer: cv2.VideoWriter | None = None
        self._began_ns = 0
        self._written = 0
        self._next_check = DISK_CHECK_FRAMES
        check_writable(path, path.absolute().parent)

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        if self._writer is None:
            self._check_space()
            self._writer = self._open(picture.shape[1], picture.shape[0])
            self._began_ns = shown_ns
        due = 1
        if self._realtime:
            due = int((shown_ns - self._began_ns) / 1e9 * self._fps) + 1 - self._written
        if self._written >= self._next_check:
            self._check_space()
            self._next_check = self._written + DISK_CHECK_FRAMES
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if due > 0 else None
        if bgr is not None:
            copies.count("video", bgr.nbytes)
        for _ in range(due):
            self._writer.write(bgr)
            self._written += 1

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        codec = VIDEO_CODECS[self._path.suffix.lower()]
        # avc1 plays in every browser; only macOS brings an encoder for it
        for name in ("avc1", codec) if sys.platform == "darwin" and codec == "mp4v" else (codec,):
            writer = cv2.VideoWriter(
                str(self._partial), cv2.VideoWriter.fourcc(*name), self._fps, (width, height)
            )
            if writer.isOpened():
                return writer
        raise SinkError(
            f"{self._path}: no encoder for a {width} x {height} {self._path.suffix} video; try "
            ".avi or a folder of PNGs"
        )

    def _check_space(self) -> None:
        # OpenCV's writer reports no errors, so a full disk has to be seen before it is met
        free = shutil.disk_usage(self._path.absolute().parent).free
        if free < LEAST_FREE_BYTES:
            raise SinkError(
                f"{self._path}: the disk is full ({free / 1e6:.0f} MB left); what was recorded "
                "until now is kept; "
                "free space or record elsewhere"
            )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            if self._written:
                self._partial.replace(self._path)
            else:  # an empty video must not take the place of an earlier one
                self._partial.unlink(missing_ok=True)


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
        copies.count("image", picture.nbytes)

    def close(self) -> None:
        if self._last is not None:
            save_image(self._path, self._last)
            self._last = None


class FolderSink:
    """A folder of numbered PNGs, frame-000001.png onwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        if path.exists() and not path.is_dir():
            raise SinkError(
                f"{path}: is a file, and without a suffix a folder is meant; name another one, or "
                "add .mp4 or .png"
            )
        if path.exists() and any(path.glob("frame-*.png")):
            raise SinkError(
                f"{path}: already holds frames of another session; name a new folder or empty this "
                "one"
            )
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
        self.closed = False
        self._picture: np.ndarray | None = None  # BGR
        self._sized_for: tuple[int, ...] = ()
        self._keys: deque[int] = deque()
        self._polled = False
        self._full = False
        self._bars_for = (0, 0)
        os.environ.setdefault(*_QUIET_QT)
        cv2.namedWindow(
            self.TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
        )

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        """Show a picture; the window takes its size whenever that changes. Nothing happens once it
        was closed.
        """
        if self.closed:
            return
        self._picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        copies.count("window", picture.nbytes)
        self._show()
        if picture.shape != self._sized_for and not self._full:
            self._sized_for = picture.shape
            cv2.resizeWindow(self.TITLE, picture.shape[1], picture.shape[0])
        self._poll()  # paints

    def key(self) -> int | None:
        """Return the next key pressed, as a code point, or None."""
        if not self._keys and not self._polled:
            self._poll()
            if self._full and not self.closed and self._bars_for != self._area():
                self._show()  # the screen has only now become full, and no frame may be coming
        self._polled = False  # a poll takes 1 to 10 ms, and `write` has just done one
        return self._keys.popleft() if self._keys else None

    def toggle_full_screen(self) -> None:
        self._full = not self._full
        state = cv2.WINDOW_FULLSCREEN if self._full else cv2.WINDOW_NORMAL
        ratio = cv2.WINDOW_FREERATIO if self._full and _BARS else cv2.WINDOW_KEEPRATIO
        cv2.setWindowProperty(self.TITLE, cv2.WND_PROP_FULLSCREEN, state)
        cv2.setWindowProperty(self.TITLE, cv2.WND_PROP_ASPECT_RATIO, ratio)
        self._show()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            cv2.destroyAllWindows()

    def _show(self) -> None:
        if self._picture is not None:
            self._bars_for = self._area()
            cv2.imshow(self.TITLE, with_bars(self._picture, *self._bars_for))

    def _area(self) -> tuple[int, int]:
        """Width and height of what the picture will be stretched over, or zeros where it keeps its
        proportions.
        """
        if not (self._full and _BARS):
            return 0, 0
        _, _, width, height = cv2.getWindowImageRect(self.TITLE)
        return width, height

    def _poll(self) -> None:
        if self.closed:
            return
        code = cv2.pollKey()
        key = key_of(code) if code != -1 else None
        if key is not None:
            self._keys.append(key)
        self._polled = True
        self.closed = self._was_closed()

    def _was_closed(self) -> bool:
        if sys.platform == "darwin" or self._picture is None:
            # there the window has no close button, and one in the Dock is not visible either
            return False
        try:
            return cv2.getWindowProperty(self.TITLE, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:  # Qt's answer once its last window is gone
            return True


# Qt warns about a font folder that the OpenCV wheel leaves out, once for every font it does not
# need.
_QUIET_QT = ("QT_LOGGING_RULES", "default.warning=false")
# Qt's own bars in full screen are a bright grey; Cocoa does not tell the size of the screen.
_BARS = sys.platform == "linux"
_KEYSYMS = {0xFF08: 8, 0xFF0D: 13, 0xFF1B: 27, 0xFF8D: 13, 0xFFAB: ord("+"), 0xFFAD: ord("-")}


def with_bars(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Give a picture the proportions `width` to `height` with black bars; either may be 0 to leave
    it alone.
    """
    if min(width, height) <= 0:
        return picture
    wide = max(0, round(picture.shape[0] * width / height) - picture.shape[1])
    high = max(0, round(picture.shape[1] * height / width) - picture.shape[0])
    sides = high // 2, high - high // 2, wide // 2, wide - wide // 2
    return cv2.copyMakeBorder(picture, *sides, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def key_of(code: int) -> int | None:
    """Turn what OpenCV's pollKey returns into a code point; None for arrows, shift and the like.

    X11 hands out keysyms: Latin-1 as it is (through Qt, in capitals and as a signed byte), all else
    as 0x1000000 + code point, and keys without a character from 0xFF00. Cocoa hands out UTF-16,
    with the keys that have no character at 0xF700.
    """
    if code < 0:
        return ord(chr(code & 0xFF).lower())
    if code >= 0x1000000:
        return code - 0x1000000
    code &= 0xFFFF  # GTK puts shift and lock above
    if code in _KEYSYMS:
        return _KEYSYMS[code]
    if sys.platform == "darwin":
        return code if 0 < code < 0xF700 or code >= 0xF900 else None
    return code if 0 < code < 0x100 else None


def window_obstacle() -> str:
    """Say what stands in the way of a window, or nothing. On Linux this opens one in another
    process to find out.
    """
    gui = next((line for line in cv2.getBuildInformation().splitlines() if "GUI:" in line), "")
    if "NONE" in gui:
        return "this OpenCV is the headless build (`pip install opencv-python` brings the other)"
    if sys.platform != "linux":
        return ""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    return _probe_display()


def _probe_display(timeout_s: float = 20.0) -> str:
    """Let another process try: a display that cannot be reached aborts whoever asks OpenCV for a
    window.
    """
    probe = [sys.executable, "-c", "import cv2; cv2.namedWindow('sdxs'); cv2.destroyAllWindows()"]
    try:
        tried = subprocess.run(
            probe,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the display did not answer within {timeout_s:.0f} s"
    if tried.returncode == 0:
        return ""
    said = (
        next((line for line in tried.stderr.splitlines() if "display" in line), "")
        or "OpenCV cannot open a window"
    )
    return f"the display cannot be used ({said.removeprefix('qt.qpa.xcb: ').strip()})"


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
        raise SinkError(
            f"{path}: cannot be written ({error.strerror}); free space or name another place"
        ) from None


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


def check_writable(path: Path, folder: Path) -> None:
    """Create nothing, but raise SinkError unless a file can be made in `folder`; only trying tells
    (mounts, quotas, root).
    """
    if path.is_dir():
        raise SinkError(
            f"{path}: is a folder, expected a file name; add one, or drop the suffix to write a "
            "folder of PNGs"
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SinkError(
            f"{path}: cannot be written to {folder} ({error.strerror}); create it or name another "
            "place"
        ) from None
