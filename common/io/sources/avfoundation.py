"""Cameras and the permission to use them as macOS' AVFoundation tells them, by its C functions.

Nothing here makes macOS ask the user: names and formats are told without permission. Every function
raises OSError, AttributeError or ValueError where AVFoundation is not as expected.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from .camera_modes import CameraInfo, CameraMode

_OBJC = "/usr/lib/libobjc.A.dylib"
_FRAMEWORKS = "/System/Library/Frameworks"
_AVFOUNDATION = f"{_FRAMEWORKS}/AVFoundation.framework/AVFoundation"
_COREFOUNDATION = f"{_FRAMEWORKS}/CoreFoundation.framework/CoreFoundation"
_COREMEDIA = f"{_FRAMEWORKS}/CoreMedia.framework/CoreMedia"
_VIDEO, _MUXED = b"vide", b"muxx"  # AVMediaTypeVideo and AVMediaTypeMuxed
_IS_VIDEO = int.from_bytes(_VIDEO, "big")  # kCMMediaType_Video

Argument = bytes | ctypes.c_char_p | ctypes.c_void_p | ctypes.c_long
Result = type[ctypes.c_void_p | ctypes.c_long | ctypes.c_uint32 | ctypes.c_double | ctypes.c_char_p]


class Dimensions(ctypes.Structure):
    """CMVideoDimensions of CoreMedia."""

    _fields_ = (("width", ctypes.c_int32), ("height", ctypes.c_int32))


def authorization() -> int:
    """Return AVFoundation's AVAuthorizationStatus for cameras."""
    mac = _AVFoundation()
    with mac.pool():
        return mac.ask_class("AVCaptureDevice", "authorizationStatusForMediaType:", _VIDEO)


def count_devices() -> int:
    """Return the number of cameras."""
    mac = _AVFoundation()
    with mac.pool():
        return len(mac.devices())


def cameras() -> list[CameraInfo]:
    """Return the cameras in OpenCV's order, with what they offer."""
    mac = _AVFoundation()
    with mac.pool():
        return [
            CameraInfo(number, mac.text(mac.ask(device, "localizedName")), tuple(mac.modes(device)))
            for number, device in enumerate(mac.devices())
        ]


class _AVFoundation:
    """Objects of AVFoundation, by their addresses."""

    def __init__(self) -> None:
        # of its own: another thread may call the same functions with other types
        ctypes.CDLL(_AVFOUNDATION)
        self._objc, self._core = ctypes.CDLL(_OBJC), ctypes.CDLL(_COREFOUNDATION)
        self._media = ctypes.CDLL(_COREMEDIA)

    @contextmanager
    def pool(self) -> Iterator[None]:
        """Free at the end what was made meanwhile; a thread of Python's has no pool."""
        pool = call(self._objc.objc_autoreleasePoolPush, ctypes.c_void_p)
        try:
            yield
        finally:
            invoke(self._objc.objc_autoreleasePoolPop, None, ctypes.c_void_p(pool))

    def devices(self) -> list[int]:
        """Return the cameras in OpenCV's order.

        OpenCV lists video, then muxed devices, and sorts all by uniqueID (opencv/opencv
        modules/videoio/src/cap_avfoundation_mac.mm, startCaptureDevice, since pull request 22946).
        """
        listed = [
            device
            for kind in (_VIDEO, _MUXED)
            for device in self.items(
                self.ask_class("AVCaptureDevice", "devicesWithMediaType:", kind)
            )
        ]
        return sorted(listed, key=lambda device: self.text(self.ask(device, "uniqueID")))

    def modes(self, device: int) -> Iterator[CameraMode]:
        """Yield the formats of a camera, as sizes with ranges of rates."""
        for each in self.items(self.ask(device, "formats")):
            described = ctypes.c_void_p(self.ask(each, "formatDescription"))
            kind = call(self._media.CMFormatDescriptionGetMediaType, ctypes.c_uint32, described)
            if kind != _IS_VIDEO:
                continue  # a muxed stream has no size
            size = cast(
                Dimensions,
                invoke(self._media.CMVideoFormatDescriptionGetDimensions, Dimensions, described),
            )
            rates = tuple(
                (self.number(one, "minFrameRate"), self.number(one, "maxFrameRate"))
                for one in self.items(self.ask(each, "videoSupportedFrameRateRanges"))
            )
            yield CameraMode((size.width, size.height), rates)

    def ask_class(self, name: str, selector: str, media_type: bytes) -> int:
        """Send a class a message that takes a media type."""
        string = self._to_class("NSString", "stringWithUTF8String:", ctypes.c_char_p(media_type))
        return self._to_class(name, selector, ctypes.c_void_p(string))

    def ask(self, receiver: int, selector: str) -> int:
        """Return the object that a property holds."""
        return int(cast(int | None, self._to_object(receiver, selector, ctypes.c_void_p)) or 0)

    def number(self, receiver: int, selector: str) -> float:
        """Return a property of type double."""
        return float(cast(float, self._to_object(receiver, selector, ctypes.c_double)))

    def text(self, string: int) -> str:
        """Return the text of an NSString; '' for none."""
        if not string:
            return ""
        found = self._to_object(string, "UTF8String", ctypes.c_char_p)
        return cast(bytes, found or b"").decode(errors="replace")

    def items(self, array: int) -> list[int]:
        """Return what an NSArray holds."""
        if not array:
            return []
        listed, core = ctypes.c_void_p(array), self._core
        count = call(core.CFArrayGetCount, ctypes.c_long, listed)
        return [
            call(core.CFArrayGetValueAtIndex, ctypes.c_void_p, listed, ctypes.c_long(index))
            for index in range(count)
        ]

    def _to_class(
        self, name: str, selector: str, argument: ctypes.c_char_p | ctypes.c_void_p
    ) -> int:
        """Send a class a message with one argument; return the integer or pointer it answers.

        Raises ValueError if the class does not know the message, which would end the process.
        """
        pointer, objc = ctypes.c_void_p, self._objc
        a_class = call(objc.objc_getClass, pointer, name.encode())
        message = call(objc.sel_registerName, pointer, selector.encode())
        if not a_class or not call(
            objc.class_getClassMethod, pointer, pointer(a_class), pointer(message)
        ):
            raise ValueError(f"{name} does not know {selector}")
        return call(objc.objc_msgSend, pointer, pointer(a_class), pointer(message), argument)

    def _to_object(self, receiver: int, selector: str, result: Result) -> object:
        """Send an object a message without arguments. Raises ValueError if it does not know it."""
        pointer, objc = ctypes.c_void_p, self._objc
        message = call(objc.sel_registerName, pointer, selector.encode())
        a_class = call(objc.object_getClass, pointer, pointer(receiver))
        if not a_class or not call(
            objc.class_getInstanceMethod, pointer, pointer(a_class), pointer(message)
        ):
            raise ValueError(f"an object does not know {selector}")
        return invoke(objc.objc_msgSend, result, pointer(receiver), pointer(message))


def call(function: "ctypes._NamedFuncPointer", result: Result, *arguments: Argument) -> int:
    """Call a C function that answers an integer or a pointer."""
    # ctypes gives None for a null pointer
    return int(cast(int | None, invoke(function, result, *arguments)) or 0)


def invoke(
    function: "ctypes._NamedFuncPointer",
    result: Result | type[ctypes.Structure] | None,
    *arguments: Argument,
) -> object:
    """Call a C function with arguments of exactly their types: Apple silicon needs to know them."""
    function.restype = result
    function.argtypes = [ctypes.c_char_p if isinstance(a, bytes) else type(a) for a in arguments]
    answer: object = function(*arguments)
    return answer
