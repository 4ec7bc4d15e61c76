"""The thermal state that macOS tells its programs. Not tried on a Mac; `mac-check` asks."""

import ctypes
import sys
from contextlib import suppress

from ...io.sources.avfoundation import call

_FOUNDATION = "/System/Library/Frameworks/Foundation.framework/Foundation"
_OBJC = "/usr/lib/libobjc.A.dylib"
STATES = ("nominal", "fair", "serious", "critical")  # NSProcessInfoThermalState


def thermal_state() -> str:
    """Return 'nominal', 'fair', 'serious' or 'critical'; '' where the system does not tell."""
    if sys.platform != "darwin":
        return ""
    with suppress(OSError, AttributeError):
        return _asked()
    return ""


def _asked() -> str:
    ctypes.CDLL(_FOUNDATION)
    objc, pointer = ctypes.CDLL(_OBJC), ctypes.c_void_p

    def named(selector: bytes) -> ctypes.c_void_p:
        return pointer(call(objc.sel_registerName, pointer, selector))

    a_class = call(objc.objc_getClass, pointer, b"NSProcessInfo")
    # one object for the whole process, which nobody has to free
    info = call(objc.objc_msgSend, pointer, pointer(a_class), named(b"processInfo"))
    if not info:
        return ""
    state = call(objc.objc_msgSend, ctypes.c_long, pointer(info), named(b"thermalState"))
    return STATES[state] if 0 <= state < len(STATES) else f"unknown ({state})"
