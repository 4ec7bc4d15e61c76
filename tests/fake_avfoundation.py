"""libobjc, AVFoundation and its like, as ctypes calls them.

A result without its type is cut to 32 bits, and an argument must be of the type that the function
takes: on Apple silicon either ends the process. So does a message that its receiver does not know,
and an object that is used after its pool.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from sdxs.common.io.sources import avfoundation

POINTER = ctypes.c_void_p
# result and arguments of the C functions
SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "objc_getClass": (POINTER, (ctypes.c_char_p,)),
    "sel_registerName": (POINTER, (ctypes.c_char_p,)),
    "object_getClass": (POINTER, (POINTER,)),
    "class_getClassMethod": (POINTER, (POINTER, POINTER)),
    "class_getInstanceMethod": (POINTER, (POINTER, POINTER)),
    "objc_autoreleasePoolPush": (POINTER, ()),
    "objc_autoreleasePoolPop": (None, (POINTER,)),
    "CFArrayGetCount": (ctypes.c_long, (POINTER,)),
    "CFArrayGetValueAtIndex": (POINTER, (POINTER, ctypes.c_long)),
    "CMFormatDescriptionGetMediaType": (ctypes.c_uint32, (POINTER,)),
    "CMVideoFormatDescriptionGetDimensions": (avfoundation.Dimensions, (POINTER,)),
}


@dataclass
class Device:
    """A camera. formats: width, height, ranges of rates, and a media type."""

    name: str
    unique_id: str
    formats: Sequence[tuple[int, int, Sequence[tuple[float, float]], bytes]] = ()
    muxed: bool = False


class Library:
    """The functions of all those libraries, and the objects behind them."""

    CLASS_METHODS = (
        b"stringWithUTF8String:",
        b"authorizationStatusForMediaType:",
        b"devicesWithMediaType:",
    )

    def __init__(self, devices: Sequence[Device], status: int = 3, knows: bool = True) -> None:
        self.status, self.knows, self.pools = status, knows, 0
        self.asked: list[bytes] = []
        self._devices = devices
        self._objects: dict[int, object] = {}
        self._names: dict[int, bytes] = {}

    # objects, by addresses that need more than 32 bits

    def keep(self, thing: object) -> int:
        address = 0x3_0000_0000 + 0x10 * (len(self._objects) + 1)
        self._objects[address] = thing
        return address

    def at(self, address: int) -> object:
        assert self.pools > 0, "used after its pool"
        return self._objects[address]

    # libobjc

    def objc_getClass(self, name: bytes) -> int:
        assert name in (b"NSString", b"AVCaptureDevice")
        return self.keep(name)

    def sel_registerName(self, name: bytes) -> int:
        address = 0x2_0000_0000 + 0x10 * (len(self._names) + 1)
        self._names[address] = name
        return address

    def object_getClass(self, address: int) -> int:
        return self.keep(type(self.at(address)))

    def class_getClassMethod(self, a_class: int, name: int) -> int | None:
        assert isinstance(self.at(a_class), bytes)
        return 0x4_0000_0001 if self.knows and self._names[name] in self.CLASS_METHODS else None

    def class_getInstanceMethod(self, a_class: int, name: int) -> int | None:
        kind = self.at(a_class)
        assert isinstance(kind, type)
        return 0x4_0000_0002 if self._names[name].decode() in PROPERTIES[kind] else None

    def objc_autoreleasePoolPush(self) -> int:
        self.pools += 1
        return 0x5_0000_0001

    def objc_autoreleasePoolPop(self, pool: int) -> None:
        assert pool == 0x5_0000_0001
        self.pools -= 1

    def objc_msgSend(self, receiver: int, name: int, *argument: bytes | int) -> object:
        thing, message = self.at(receiver), self._names[name]
        self.asked.append(message)
        if isinstance(thing, bytes):
            return self._of_class(thing, message, *argument)
        assert not argument
        answer = PROPERTIES[type(thing)][message.decode()](thing)
        return answer if isinstance(answer, bytes | float) else self.keep(answer)

    def _of_class(self, name: bytes, message: bytes, argument: bytes | int) -> int | None:
        if name == b"NSString":
            assert message == b"stringWithUTF8String:" and isinstance(argument, bytes)
            return self.keep(argument.decode())
        assert isinstance(argument, int)
        media_type = self.at(argument)
        if message == b"authorizationStatusForMediaType:":
            assert media_type == "vide"
            return self.status or None  # ctypes: a null pointer is None
        assert media_type in ("vide", "muxx")
        return self.keep([each for each in self._devices if each.muxed == (media_type == "muxx")])

    # CoreFoundation and CoreMedia

    def CFArrayGetCount(self, array: int) -> int:
        listed = self.at(array)
        assert isinstance(listed, list)
        return len(listed)

    def CFArrayGetValueAtIndex(self, array: int, index: int) -> int:
        listed = self.at(array)
        assert isinstance(listed, list)
        return self.keep(listed[index])

    def CMFormatDescriptionGetMediaType(self, description: int) -> int:
        return int.from_bytes(self.at(description).media_type, "big")  # type: ignore[attr-defined]

    def CMVideoFormatDescriptionGetDimensions(self, description: int) -> avfoundation.Dimensions:
        found = self.at(description)
        assert found.media_type == b"vide"  # type: ignore[attr-defined]
        return avfoundation.Dimensions(*found.size)  # type: ignore[attr-defined]


class Format(SimpleNamespace):
    pass


class Rates(SimpleNamespace):
    pass


class Description(SimpleNamespace):
    pass


PROPERTIES: dict[type, dict[str, Callable[[object], object]]] = {
    str: {"UTF8String": lambda text: text.encode()},  # type: ignore[attr-defined]
    Device: {
        "localizedName": lambda device: device.name,  # type: ignore[attr-defined]
        "uniqueID": lambda device: device.unique_id,  # type: ignore[attr-defined]
        "formats": lambda device: [
            Format(size=(width, height), rates=rates, media_type=media_type)
            for width, height, rates, media_type in device.formats  # type: ignore[attr-defined]
        ],
    },
    Format: {
        "formatDescription": lambda one: Description(size=one.size, media_type=one.media_type),  # type: ignore[attr-defined]
        "videoSupportedFrameRateRanges": lambda one: [Rates(ends=each) for each in one.rates],  # type: ignore[attr-defined]
    },
    Rates: {
        "minFrameRate": lambda rates: float(rates.ends[0]),  # type: ignore[attr-defined]
        "maxFrameRate": lambda rates: float(rates.ends[1]),  # type: ignore[attr-defined]
    },
}


class Function:
    """A C function; `restype` and `argtypes` as ctypes has them."""

    def __init__(self, name: str, answer: Callable[..., object]) -> None:
        self.name, self.answer = name, answer
        self.restype: type | None = ctypes.c_int
        self.argtypes: list[type] = []

    def __call__(self, *arguments: object) -> object:
        values: list[object] = []
        for kind, given in zip(self.argtypes, arguments, strict=True):
            assert isinstance(given, bytes) or type(given) is kind
            values.append(given if isinstance(given, bytes) else given.value)  # type: ignore[attr-defined]
        result, taken = SIGNATURES.get(self.name, (self.restype, tuple(self.argtypes)))
        assert self.restype is result and tuple(self.argtypes) == taken, self.name
        found = self.answer(*values)
        if isinstance(found, float):
            assert self.restype is ctypes.c_double, "a double comes in another register"
        elif isinstance(found, bytes):
            assert self.restype is ctypes.c_char_p
        elif isinstance(found, int):
            assert self.restype in (ctypes.c_void_p, ctypes.c_long, ctypes.c_uint32, ctypes.c_int)
            return found & 0xFFFFFFFF if self.restype is ctypes.c_int else found
        return found


class Libraries:
    """ctypes.CDLL: functions are attributes, and the same each time."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Function:
        made = Function(name, getattr(self._library, name))
        setattr(self, name, made)
        return made


def install(patch: pytest.MonkeyPatch, library: Library) -> Library:
    """Put these libraries in place of macOS'."""
    patch.setattr(avfoundation.ctypes, "CDLL", lambda path: Libraries(library))
    return library
