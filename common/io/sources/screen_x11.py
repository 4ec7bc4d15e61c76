"""A monitor or a window of an X11 display, by mss.

A window is read where it is on the screen: what lies over it is in the picture.
"""

import os
import time
import warnings

import mss
import numpy as np

from ...backend import copies
from ...errors import SdxsWarning, SourceError, SourceLost, in_a_line
from ...picture.opencv import cv2
from .screen_names import FPS, Shown, Wanted, no_monitor, the_one_window
from .x11 import Display, Place

TRIES = 5  # a window that is moved while it is read
NO_DISPLAY = (
    "screen: there is no display to capture ($DISPLAY is not set or not reachable); run it in the "
    "session of a desktop, or start one: Xvfb :1 & DISPLAY=:1"
)
WAYLAND = (
    "screen: this is a Wayland session, where only windows of X programs can be captured and the "
    "rest is black; log in to a session on Xorg to capture all"
)


def is_wayland() -> bool:
    """Tell whether the desktop draws by Wayland, so that X11 sees a part of it."""
    return bool(os.environ.get("WAYLAND_DISPLAY"))


def shown() -> Shown:
    """List monitors and windows. Raises SourceError."""
    display = _display()
    try:
        windows = tuple(title for _, title in display.windows())
    finally:
        display.close()
    grabber = _grabber()
    try:
        places = _monitors(grabber)
    finally:
        grabber.close()
    return Shown(tuple((each.width, each.height) for each in places), windows)


class X11Screen:
    """Reads a monitor or a window, 30 times a second at most. See `Source`."""

    fps, length, paced = FPS, None, False

    def __init__(self, wanted: Wanted) -> None:
        """Find it, and read it once. Raises SourceError."""
        self.name = wanted.name
        self._wanted = wanted
        self._due_s = 0.0
        self._last: np.ndarray | None = None
        self._hidden = False
        self._display = _display()
        try:
            self._grabber = _grabber()
            self._monitors = _monitors(self._grabber)
            self._root = self._display.place(self._display.root)
            self._window = self._found()
            if is_wayland():
                warnings.warn(WAYLAND, SdxsWarning, stacklevel=2)
        except BaseException:
            self.close()
            raise

    def read(self) -> np.ndarray:
        """Return what is there now. Raises SourceLost."""
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s = max(self._due_s, time.monotonic() - 1 / FPS) + 1 / FPS
        for _ in range(TRIES):
            place = self._place()
            if place is None:
                return self._kept()
            try:
                taken = self._grabber.grab(
                    {
                        "left": place.left,
                        "top": place.top,
                        "width": place.width,
                        "height": place.height,
                    }
                )
            except mss.ScreenShotError:
                continue  # it moved; or the display is gone, which the next look tells
            pixels = np.frombuffer(taken.raw, np.uint8).reshape(place.height, place.width, 4)
            self._last, self._hidden = cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR), False
            copies.count("source", self._last.nbytes)
            return self._last
        raise SourceLost(
            f"{self.name} cannot be read any more; check that its display runs; what was recorded "
            "until then is kept"
        )

    def close(self) -> None:
        self._display.close()
        if hasattr(self, "_grabber"):
            self._grabber.close()

    def _found(self) -> int | None:
        """Return the window, None for a monitor. Raises SourceError."""
        if self._wanted.title:
            windows = self._display.windows()
            return windows[the_one_window(self._wanted.title, [title for _, title in windows])][0]
        if not 1 <= self._wanted.monitor <= len(self._monitors):
            sizes = tuple((each.width, each.height) for each in self._monitors)
            raise no_monitor(self._wanted.monitor, Shown(sizes, ()))
        return None

    def _place(self) -> Place | None:
        """Return what to read, None where nothing of it can be seen. Raises SourceLost."""
        root = self._display.place(self._display.root)
        if root is None:
            raise SourceLost(f"{self.name}: its display has ended; what was recorded is kept")
        if root != self._root:
            self._look_again(root)
        if self._window is None:
            return self._monitors[self._wanted.monitor - 1]
        place = self._display.place(self._window)
        if place is None:
            raise SourceLost(
                f"{self.name} was closed; open it and start again; what was recorded is kept"
            )
        if not self._display.is_seen(self._window):
            return None
        left, top = max(0, place.left), max(0, place.top)
        width = min(place.left + place.width, root.width) - left
        height = min(place.top + place.height, root.height) - top
        return Place(left, top, width, height) if min(width, height) > 0 else None

    def _look_again(self, root: Place) -> None:
        """Take the monitors as they are after one came, went or changed. Raises SourceLost."""
        self._grabber.close()
        self._grabber, self._root = _grabber(), root
        self._monitors = _monitors(self._grabber)
        if self._window is None and self._wanted.monitor > len(self._monitors):
            raise SourceLost(f"{self.name} was unplugged; what was recorded is kept")

    def _kept(self) -> np.ndarray:
        """Return the last picture of a window that is minimised or off the screen; say so once."""
        if not self._hidden:
            self._hidden = True
            warnings.warn(
                f"{self.name} is minimised or off the screen; its last picture stands until it is "
                "back",
                SdxsWarning,
                stacklevel=2,
            )
        if self._last is None:
            self._last = np.zeros((16, 16, 3), np.uint8)
        return self._last


def _display() -> Display:
    if not os.environ.get("DISPLAY"):
        raise SourceError(NO_DISPLAY)
    try:
        return Display()
    except SourceError as error:
        raise SourceError(NO_DISPLAY if "$DISPLAY" in str(error) else str(error)) from None


def _grabber() -> mss.MSS:
    try:
        return mss.MSS()
    except (mss.ScreenShotError, OSError) as error:  # a library of XCB's that is not installed
        raise SourceError(
            f"screen: the display cannot be captured ({in_a_line(error)}); it takes an X11 display "
            "of 24 bits of colour, and the libraries libxcb-randr0, libxcb-shm0, libxcb-xfixes0 "
            "and libxcb-image0"
        ) from None


def _monitors(grabber: mss.MSS) -> list[Place]:
    """Return the monitors; the whole display where it tells of none."""
    listed = grabber.monitors
    return [
        Place(each["left"], each["top"], each["width"], each["height"])
        for each in (listed[1:] or listed)
    ]
