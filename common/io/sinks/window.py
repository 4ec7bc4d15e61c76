"""A window on the screen, by OpenCV. Main thread only."""

import functools
import math
import os
import subprocess
import sys
import time
from collections import deque

import numpy as np

from ...backend import copies
from ...errors import SinkError
from ...picture.opencv import cv2


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
        self._polled_s = self._toggled_s = -math.inf
        self._bars_for = (0, 0)
        os.environ.setdefault(*_QUIET_QT)
        cv2.namedWindow(
            self.TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
        )

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        """Show a picture; the window follows its size. A closed window shows nothing."""
        if self.closed:
            return
        self._picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        copies.count("window", picture.nbytes)
        self._show()
        if not self._is_settled():
            self._sized_for = ()  # Cocoa leaves full screen with a window of the screen's size
        elif picture.shape != self._sized_for and not self._full:
            self._sized_for = picture.shape
            cv2.resizeWindow(self.TITLE, *fitting(picture.shape[1], picture.shape[0]))
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
        """Enter or leave full screen; ignored while macOS still animates the last change."""
        if not self._is_settled():
            return
        self._toggled_s = time.monotonic()
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
        """Return width and height of the stretched picture, or zeros where proportions are kept."""
        if not (self._full and _BARS):
            return 0, 0
        _, _, width, height = cv2.getWindowImageRect(self.TITLE)
        return width, height

    def _is_settled(self) -> bool:
        """Tell whether full screen has been entered or left; only Cocoa takes time for it."""
        return sys.platform != "darwin" or time.monotonic() - self._toggled_s > ANIMATION_S

    def _poll(self) -> None:
        # the stamp is of the end of a poll, which takes 10 ms under Cocoa
        since_s = time.monotonic() - self._polled_s
        if self.closed or (sys.platform == "darwin" and since_s < COCOA_PAUSE_S):
            return
        code = cv2.pollKey()
        self._polled_s = time.monotonic()
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


COCOA_PAUSE_S = 0.015  # between polls, of which each takes 10 ms under Cocoa
ANIMATION_S = 1.0  # of Cocoa's full screen, with room
COCOA_WIDEST = 1200  # points; the screen of a small Mac may have 1280 or 1024

# Qt warns about a font folder that the OpenCV wheel leaves out, once for every font it does not
# need.
_QUIET_QT = ("QT_LOGGING_RULES", "default.warning=false")
# Qt's own bars in full screen are a bright grey; Cocoa does not tell the size of the screen.
_BARS = sys.platform == "linux"
_KEYSYMS = {0xFF08: 8, 0xFF0D: 13, 0xFF1B: 27, 0xFF8D: 13, 0xFFAB: ord("+"), 0xFFAD: ord("-")}


def fitting(width: int, height: int) -> tuple[int, int]:
    """Return the size of a window for a picture, in the same proportions."""
    if sys.platform != "darwin" or width <= COCOA_WIDEST:
        return width, height
    return COCOA_WIDEST, round(height * COCOA_WIDEST / width)


def with_bars(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pad a picture to the proportions `width` to `height` with black; 0 leaves it alone."""
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
    """Return the obstacle to a window, or ''.

    Another process opens a window to find out: on Linux always, on macOS over SSH.
    """
    gui = next((line for line in cv2.getBuildInformation().splitlines() if "GUI:" in line), "")
    if "NONE" in gui:
        return "this OpenCV is the headless build (`pip install opencv-python` brings the other)"
    if sys.platform == "darwin":
        return _probe_display("over SSH") if "SSH_CONNECTION" in os.environ else ""
    if sys.platform != "linux":
        return ""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    return _probe_display(f"{os.environ.get('DISPLAY')} {os.environ.get('WAYLAND_DISPLAY')}")


@functools.cache
def _probe_display(display: str, timeout_s: float = 20.0) -> str:
    """Open a window in another process: an unreachable display aborts the asker.

    display: asked once each.
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
