"""A monitor or a window of a Mac, by ScreenCaptureKit through PyObjC.

macOS scales what it captures to MOST_SIDE at most: a frame is smaller in any case, and a Retina
screen of 5120 x 2880 would be 1.8 GB a second to copy. Pictures come on a queue of the system's;
each is copied at once, because the system has few buffers and waits for them.
"""

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from ...backend import copies
from ...errors import SourceError, SourceLost
from ...picture.opencv import cv2
from .screen_names import FPS, Shown, Wanted, no_monitor, the_one_window

MOST_SIDE = 1920
ANSWER_S = 10.0  # for the system, not for the user
FIRST_S = 5.0
SILENCE_S = 0.25  # a screen that does not change sends nothing; its last picture is read again
COMPLETE, IDLE = 0, 1  # SCFrameStatus
SCREEN = 0  # SCStreamOutputTypeScreen
BGRA = int.from_bytes(b"BGRA", "big")  # kCVPixelFormatType_32BGRA
READ_ONLY = 1  # kCVPixelBufferLock_ReadOnly
_COREGRAPHICS = "/System/Library/Frameworks/CoreGraphics.framework/CoreGraphics"
SETTINGS = (
    "System Settings > Privacy & Security > Screen & System Audio Recording: allow the program "
    "this runs in (Terminal, iTerm, your editor), then restart it"
)
DENIED = f"screen: macOS does not allow this program to record the screen; in {SETTINGS}"


def may_record() -> bool:
    """Tell whether macOS allows this program to record the screen; asks nobody."""
    return bool(_graphics().CGPreflightScreenCaptureAccess())


def ask_for_screen() -> None:
    """Have macOS ask the user, if it has not yet.

    Raises SourceError, since a restart is needed then, and ImportError without PyObjC.
    """
    _kit()  # nobody is asked in vain
    if may_record():
        return
    _graphics().CGRequestScreenCaptureAccess()  # shows the dialog once, and does not wait
    raise SourceError(f"{DENIED}; if a dialog asks, allow it there")


def shown() -> Shown:
    """List monitors and windows; ask nobody. Raises SourceError, ImportError without PyObjC."""
    kit = _kit()
    if not may_record():
        raise SourceError(DENIED)
    with kit.objc.autorelease_pool():
        content = kit.content()
        monitors = tuple(kit.pixels(kit.filter_of(each)) for each in content.displays())
        return Shown(monitors, tuple(title for _, title in kit.windows(content)))


class MacScreen:
    """Hands out the newest picture of a monitor or a window. See `Source`."""

    fps, length, paced = FPS, None, False

    def __init__(self, wanted: Wanted) -> None:
        """Find it, and begin to capture. Raises SourceError, ImportError without PyObjC."""
        self.name = wanted.name
        self._kit = _kit()
        ask_for_screen()
        self._arrived = threading.Condition()
        self._picture: np.ndarray | None = None
        self._new = self._closed = False
        self._shown_at = 0  # the system may call from several threads
        self._asked = self._size = (0, 0)  # asked of the system; that would fit what is there now
        self._why, self._is_window = "", bool(wanted.title)
        self.sent: dict[str, object] = {}  # what macOS said of the last picture, for mac-check
        with self._kit.objc.autorelease_pool():
            self._begin(wanted)

    def read(self) -> np.ndarray | None:
        """Return a new picture, or after a quarter second of none the last. Raises SourceLost."""
        with self._arrived:
            patience = SILENCE_S if self._picture is not None else FIRST_S
            self._arrived.wait_for(lambda: self._new or self._why or self._closed, patience)
            self._new = False
            picture, why = self._picture, self._why
        if self._closed:
            return None
        if why:
            raise SourceLost(f"{self.name}: {why}; what was recorded until then is kept")
        if picture is None:
            raise SourceLost(f"{self.name} has sent no picture for {FIRST_S:g} s; in {SETTINGS}")
        if self._size != self._asked:
            self._fit()
        copies.count("source", picture.nbytes)
        return picture

    def close(self) -> None:
        with self._arrived:
            done, self._closed = self._closed, True
            self._arrived.notify()
        if not done and not self._why:
            with self._kit.objc.autorelease_pool():
                _wait(self._stream.stopCaptureWithCompletionHandler_, 1)

    def _begin(self, wanted: Wanted) -> None:
        kit = self._kit
        content = kit.content()
        displays, windows = list(content.displays()), kit.windows(content)
        if wanted.title:
            at = the_one_window(wanted.title, [title for _, title in windows])
            found = kit.filter_of(windows[at][0], window=True)
        elif 1 <= wanted.monitor <= len(displays):
            found = kit.filter_of(displays[wanted.monitor - 1])
        else:
            sizes = tuple(kit.pixels(kit.filter_of(each)) for each in displays)
            raise no_monitor(wanted.monitor, Shown(sizes, ()))
        self._asked = self._size = bounded(*kit.pixels(found))
        # the stream refers to both weakly
        self._receiver = _receiver_class().alloc().init()
        self._receiver.take, self._receiver.end = self._take, self._end
        made = kit.capture.SCStream.alloc()
        self._stream = made.initWithFilter_configuration_delegate_(
            found, kit.configuration(self._asked), self._receiver
        )
        added, error = self._stream.addStreamOutput_type_sampleHandlerQueue_error_(
            self._receiver, SCREEN, None, None
        )
        if not added:
            raise SourceError(f"{self.name} cannot be captured ({_said(error)})")
        (error,) = _wait(self._stream.startCaptureWithCompletionHandler_, 1)
        if error is not None:
            raise SourceError(f"{self.name} cannot be captured ({_said(error)}); in {SETTINGS}")

    def _fit(self) -> None:
        """Have a window that was resized captured at its new size."""
        self._asked = self._size
        with self._kit.objc.autorelease_pool():
            made = self._kit.configuration(self._asked)
            # one that fails leaves the old size, which still shows the whole window
            _wait(lambda done: self._stream.updateConfiguration_completionHandler_(made, done), 1)

    # The system's threads.

    def _take(self, sample: Any) -> None:
        """Copy a picture out of a buffer of the system's, which is lent for the call."""
        media, capture = self._kit.media, self._kit.capture
        notes = media.CMSampleBufferGetSampleAttachmentsArray(sample, False)
        about = notes[0] if notes else {}
        if int(about.get(capture.SCStreamFrameInfoStatus, IDLE)) != COMPLETE:
            return  # nothing has changed, and there is no picture in it
        buffer = media.CMSampleBufferGetImageBuffer(sample)
        at = int(about.get(capture.SCStreamFrameInfoDisplayTime, self._shown_at + 1))
        if buffer is None:
            return
        inner, size = self._inner(about)
        self.sent = {
            "content": str(about.get(capture.SCStreamFrameInfoContentRect)),
            "scale": str(about.get(capture.SCStreamFrameInfoScaleFactor)),
            "content_scale": str(about.get(capture.SCStreamFrameInfoContentScale)),
        }
        picture = _read(self._kit.quartz, buffer, inner)
        with self._arrived:
            if picture is not None and at >= self._shown_at:
                self._picture, self._new, self._shown_at = picture, True, at
                self._size = size or self._size
            self._arrived.notify()

    def _inner(self, about: Any) -> tuple[tuple[int, int, int, int] | None, tuple[int, int] | None]:
        """Return where in a buffer the content is, in pixels, and the size that would fit it."""
        capture = self._kit.capture
        stored = about.get(capture.SCStreamFrameInfoContentRect)
        scale = float(about.get(capture.SCStreamFrameInfoScaleFactor, 0) or 0)
        shrunk = float(about.get(capture.SCStreamFrameInfoContentScale, 0) or 0)
        # a monitor fills its buffer, whose proportions it has
        if stored is None or not (scale and shrunk and self._is_window):
            return None, None
        left, top, width, height = self._kit.numbers(stored)
        inner = tuple(round(each * scale) for each in (left, top, width, height))
        size = bounded(*(max(1, round(each * scale / shrunk)) for each in (width, height)))
        return (inner[0], inner[1], inner[2], inner[3]), size

    def _end(self, error: Any) -> None:
        with self._arrived:
            self._why = f"macOS ended the capture ({_said(error)})"
            self._arrived.notify()


class _Kit:
    """PyObjC's modules, and the few things that we ask of them."""

    def __init__(self) -> None:
        self.objc: ModuleType = import_module("objc")
        self.capture: ModuleType = import_module("ScreenCaptureKit")
        self.media: ModuleType = import_module("CoreMedia")
        self.quartz: ModuleType = import_module("Quartz")

    def content(self) -> Any:
        """Return what can be captured. Raises SourceError."""
        ask = "getShareableContentExcludingDesktopWindows_onScreenWindowsOnly_completionHandler_"
        method = getattr(self.capture.SCShareableContent, ask)
        content, error = _wait(lambda done: method(True, True, done), 2)
        if content is None:
            raise SourceError(f"screen: macOS lists nothing to capture ({_said(error)}); {DENIED}")
        return content

    def windows(self, content: Any) -> list[tuple[Any, str]]:
        """Return windows with a title, and their titles."""
        named = [(each, str(each.title() or "")) for each in content.windows()]
        return [(each, title) for each, title in named if title.strip()]

    def filter_of(self, what: Any, window: bool = False) -> Any:
        """Return the filter of a display, or of a window without what lies over it."""
        made = self.capture.SCContentFilter.alloc()
        if window:
            return made.initWithDesktopIndependentWindow_(what)
        return made.initWithDisplay_excludingWindows_(what, [])

    def pixels(self, found: Any) -> tuple[int, int]:
        """Return the size of what a filter shows in pixels: points times the scale (macOS 14)."""
        scale, size = float(found.pointPixelScale()), found.contentRect().size
        return max(1, round(size.width * scale)), max(1, round(size.height * scale))

    def configuration(self, size: tuple[int, int]) -> Any:
        made = self.capture.SCStreamConfiguration.alloc().init()
        made.setWidth_(size[0])
        made.setHeight_(size[1])
        made.setPixelFormat_(BGRA)
        made.setScalesToFit_(True)
        made.setShowsCursor_(True)
        made.setQueueDepth_(5)
        made.setMinimumFrameInterval_(self.media.CMTimeMake(1, round(FPS)))
        return made

    def numbers(self, stored: Any) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a rectangle that is stored as a dictionary."""
        return (
            float(stored["X"]),
            float(stored["Y"]),
            float(stored["Width"]),
            float(stored["Height"]),
        )


@cache
def _kit() -> _Kit:
    return _Kit()


def bounded(width: int, height: int) -> tuple[int, int]:
    """Return a size of the same proportions whose longer side is at most MOST_SIDE."""
    share = min(1.0, MOST_SIDE / max(width, height))
    return max(1, round(width * share)), max(1, round(height * share))


@cache
def _graphics() -> Any:
    try:
        found = ctypes.CDLL(_COREGRAPHICS)
    except OSError:
        raise SourceError("screen: CoreGraphics cannot be opened; this needs macOS 14") from None
    for name in ("CGPreflightScreenCaptureAccess", "CGRequestScreenCaptureAccess"):
        getattr(found, name).restype = ctypes.c_bool
    return found


@cache
def _receiver_class() -> Any:
    """Make the class whose objects the system calls; a process can make it once."""
    foundation: Any = import_module("Foundation")

    class SdxsScreenReceiver(foundation.NSObject):  # type: ignore[misc]
        def stream_didOutputSampleBuffer_ofType_(self, stream: Any, sample: Any, kind: int) -> None:
            if kind == SCREEN:
                self.take(sample)

        def stream_didStopWithError_(self, stream: Any, error: Any) -> None:
            self.end(error)

    return SdxsScreenReceiver


def _wait(ask: Callable[[Callable[..., None]], object], count: int) -> tuple[Any, ...]:
    """Call what answers by a completion handler of some arguments; return these.

    Raises SourceError if no answer comes.
    """
    done, found = threading.Event(), list[Any]()

    def answer(*given: Any) -> None:
        found.extend(given)
        done.set()

    # PyObjC counts a block's arguments by the signature of the function
    handlers: dict[int, Callable[..., None]] = {
        1: lambda first: answer(first),
        2: lambda first, second: answer(first, second),
    }
    ask(handlers[count])
    if not done.wait(ANSWER_S):
        raise SourceError(
            f"screen: macOS has not answered for {ANSWER_S:g} s; log out and in again"
        )
    return tuple(found)


def _said(error: Any) -> str:
    return str(error.localizedDescription()) if error is not None else "no reason given"


def _read(
    quartz: ModuleType, buffer: Any, inner: tuple[int, int, int, int] | None
) -> np.ndarray | None:
    """Return a copy of the content of a pixel buffer, uint8 (H, W, 3) BGR; None if it is empty."""
    if quartz.CVPixelBufferLockBaseAddress(buffer, READ_ONLY):
        return None
    try:
        height, width = quartz.CVPixelBufferGetHeight(buffer), quartz.CVPixelBufferGetWidth(buffer)
        row = quartz.CVPixelBufferGetBytesPerRow(buffer)
        memory = quartz.CVPixelBufferGetBaseAddress(buffer).as_buffer(row * height)
        view = np.ndarray((height, width, 4), np.uint8, memory, strides=(row, 4, 1))
        left, top, wide, high = inner or (0, 0, width, height)
        view = view[max(0, top) : top + high, max(0, left) : left + wide]
        return cv2.cvtColor(view, cv2.COLOR_BGRA2BGR) if view.size else None
    finally:
        quartz.CVPixelBufferUnlockBaseAddress(buffer, READ_ONLY)
