"""PyObjC's ScreenCaptureKit, CoreMedia and Quartz, as strict as Apple's documentation.

Completion handlers and pictures come on threads of the fake's own. A stream refers weakly to its
output and its delegate. A picture's memory is only there between lock and unlock, within the call
that hands it over, and its rows are padded. A sample without a new picture has no buffer. Without
permission nothing is listed, and nothing starts. Broken rules are noted in `World.broken`.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest

from sdxs.common.io.sources import screen_mac

PAD = 64  # bytes behind each row


@dataclass
class Thing:
    """A display or a window, in points. scale: pixels a point."""

    width: int
    height: int
    scale: float = 2.0
    text: str = ""
    colour: tuple[int, int, int] = (10, 20, 30)

    def title(self) -> str:
        return self.text


@dataclass
class World:
    allowed: bool = True
    asked: int = 0
    refuses: bool = False
    monitors: list[Thing] = field(default_factory=list)
    windows: list[Thing] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    stream: Any = None


class Error:
    def __init__(self, text: str) -> None:
        self.text = text

    def localizedDescription(self) -> str:
        return self.text


def elsewhere(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


class Filter:
    def __init__(self) -> None:
        self.what = Thing(1, 1)
        self.is_window = False

    @classmethod
    def alloc(cls) -> "Filter":
        return cls()

    def initWithDisplay_excludingWindows_(self, display: Thing, windows: list[Thing]) -> "Filter":
        self.what = display
        return self

    def initWithDesktopIndependentWindow_(self, window: Thing) -> "Filter":
        self.what, self.is_window = window, True
        return self

    def pointPixelScale(self) -> float:
        return self.what.scale

    def contentRect(self) -> Any:
        return SimpleNamespace(size=SimpleNamespace(width=self.what.width, height=self.what.height))


class Configuration:
    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    @classmethod
    def alloc(cls) -> "Configuration":
        return cls()

    def init(self) -> "Configuration":
        return self

    def __getattr__(self, name: str) -> Callable[[Any], None]:
        assert name.startswith("set") and name.endswith("_"), name
        return lambda value: self.given.__setitem__(name[3:-1], value)

    @property
    def size(self) -> tuple[int, int]:
        return self.given["Width"], self.given["Height"]


class Memory:
    def __init__(self, world: World, pixels: np.ndarray) -> None:
        self.world, self.locked, self.lent = world, False, True
        height, width = pixels.shape[:2]
        self.shape = height, width
        self.row = 4 * width + PAD
        self.bytes = np.full((height, self.row), 255, np.uint8)
        self.bytes[:, : 4 * width] = pixels.reshape(height, -1)

    def as_buffer(self, count: int) -> memoryview:
        if not (self.locked and self.lent):
            self.world.broken.append("memory is read without a lock, or too late")
        assert count <= self.bytes.size
        return memoryview(self.bytes.reshape(-1)[:count])


@dataclass
class Sample:
    notes: dict[str, Any]
    memory: Memory | None


class Stream:
    """An SCStream; `show` sends what its thing shows now."""

    def __init__(self, world: World) -> None:
        self.world, self.outputs, self.running, self.updates = world, list[Any](), False, 0
        self.moment = 0

    def initWithFilter_configuration_delegate_(self, found: Filter, c: Any, owner: Any) -> Any:
        self.filter, self.configuration, self.delegate = found, c, ref(owner)
        for name, wanted in (("PixelFormat", screen_mac.BGRA), ("QueueDepth", 5)):
            if c.given.get(name) != wanted:
                self.world.broken.append(f"{name} is {c.given.get(name)}")
        return self

    def addStreamOutput_type_sampleHandlerQueue_error_(
        self, output: Any, kind: int, queue: object, error: None
    ) -> tuple[bool, Error | None]:
        if self.world.refuses:
            return False, Error("too many streams")
        self.outputs.append(ref(output))
        return True, None

    def startCaptureWithCompletionHandler_(self, done: Callable[[Any], None]) -> None:
        if not self.outputs:
            self.world.broken.append("started without an output")
        self.running = self.world.allowed
        elsewhere(lambda: done(None if self.running else Error("declined")))

    def updateConfiguration_completionHandler_(self, c: Any, done: Callable[[Any], None]) -> None:
        if not self.running:
            self.world.broken.append("updated while it does not run")
        self.configuration, self.updates = c, self.updates + 1
        elsewhere(lambda: done(None))

    def stopCaptureWithCompletionHandler_(self, done: Callable[[Any], None]) -> None:
        if not self.running:
            self.world.broken.append("stopped while it does not run")
        self.running = False
        elsewhere(lambda: done(None))

    def show(self, status: int = 0, moment: int | None = None) -> None:
        """Send a sample; with status 0 it has a picture of what is there now."""
        self.moment = self.moment + 1 if moment is None else moment
        thing, (wide, high) = self.filter.what, self.configuration.size
        shrunk = min(wide / (thing.width * thing.scale), high / (thing.height * thing.scale), 1.0)
        inside = (
            round(thing.width * thing.scale * shrunk),
            round(thing.height * thing.scale * shrunk),
        )
        notes: dict[str, Any] = {"status": status, "time": self.moment}
        memory = None
        if status == 0:
            pixels = np.zeros((high, wide, 4), np.uint8)
            pixels[: inside[1], : inside[0]] = (*thing.colour, 255)
            memory = Memory(self.world, pixels)
            rect = dict(X=0, Y=0, Width=inside[0] / thing.scale, Height=inside[1] / thing.scale)
            notes |= {"rect": rect, "scale": thing.scale, "shrunk": shrunk}
        sample = Sample(notes, memory)
        for output in self.outputs:
            if (kept := output()) is None:
                self.world.broken.append("nobody keeps the output")
                continue
            elsewhere(lambda k=kept: k.stream_didOutputSampleBuffer_ofType_(self, sample, 0))
        if memory is not None:
            if memory.locked:
                self.world.broken.append("a buffer stays locked")
            memory.lent = False
            memory.bytes[:] = 77  # the system's again

    def stop(self, text: str) -> None:
        """End it, as the system does where a window was closed."""
        self.running = False
        if (kept := self.delegate()) is None:
            self.world.broken.append("nobody keeps the delegate")
        else:
            elsewhere(lambda: kept.stream_didStopWithError_(self, Error(text)))


def install(patch: pytest.MonkeyPatch, world: World) -> World:
    """Put the modules where `import_module` finds them, and the permission where it is asked."""

    def content(desktop: bool, seen: bool, done: Callable[[Any, Any], None]) -> None:
        found = SimpleNamespace(displays=lambda: world.monitors, windows=lambda: world.windows)
        given = (found, None) if world.allowed else (None, Error("The user declined"))
        elsewhere(lambda: done(*given))

    def made() -> Stream:
        world.stream = Stream(world)
        return world.stream

    capture = ModuleType("ScreenCaptureKit")
    ask = "getShareableContentExcludingDesktopWindows_onScreenWindowsOnly_completionHandler_"
    names = {"Status": "status", "DisplayTime": "time", "ContentRect": "rect"}
    names |= {"ScaleFactor": "scale", "ContentScale": "shrunk"}
    for name, value in (
        ("SCShareableContent", SimpleNamespace(**{ask: content})),
        ("SCContentFilter", Filter),
        ("SCStreamConfiguration", Configuration),
        ("SCStream", SimpleNamespace(alloc=made)),
        *((f"SCStreamFrameInfo{key}", text) for key, text in names.items()),
    ):
        setattr(capture, name, value)
    media: Any = ModuleType("CoreMedia")
    media.CMSampleBufferGetSampleAttachmentsArray = lambda sample, create: [sample.notes]
    media.CMSampleBufferGetImageBuffer = lambda sample: sample.memory
    media.CMTimeMake = lambda value, scale: (value, scale)
    quartz: Any = ModuleType("Quartz")
    quartz.CVPixelBufferLockBaseAddress = lambda each, flags: setattr(each, "locked", True) or 0
    quartz.CVPixelBufferUnlockBaseAddress = lambda each, flags: setattr(each, "locked", False)
    quartz.CVPixelBufferGetHeight = lambda each: each.shape[0]
    quartz.CVPixelBufferGetWidth = lambda each: each.shape[1]
    quartz.CVPixelBufferGetBytesPerRow = lambda each: each.row
    quartz.CVPixelBufferGetBaseAddress = lambda each: each
    objc: Any = ModuleType("objc")
    objc.autorelease_pool = nullcontext
    foundation: Any = ModuleType("Foundation")
    foundation.NSObject = _NSObject
    modules = (objc, foundation, capture, media, quartz)
    for module in modules:
        patch.setitem(__import__("sys").modules, module.__name__, module)

    def request() -> bool:
        world.asked += 1
        return False

    graphics = SimpleNamespace(
        CGPreflightScreenCaptureAccess=lambda: world.allowed, CGRequestScreenCaptureAccess=request
    )
    patch.setattr(screen_mac, "_graphics", lambda: graphics)
    for each in (screen_mac._kit, screen_mac._receiver_class):
        each.cache_clear()
    return world


class _NSObject:
    @classmethod
    def alloc(cls) -> "_NSObject":
        return cls()

    def init(self) -> "_NSObject":
        return self
