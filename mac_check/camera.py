"""Camera 0 as OpenCV reports it, if this terminal may already use it; nobody is asked."""

import ctypes
import sys

from .setup import Answer, Setup

_FRAMEWORK = "/System/Library/Frameworks/AVFoundation.framework/AVFoundation"
STATUS = {0: "not asked yet", 1: "restricted", 2: "denied", 3: "allowed"}


def ask_camera(setup: Setup) -> Answer:
    """Return size and reported frame rate of camera 0; only the status without permission."""
    status = camera_permission()
    if status != "allowed":
        return {"ok": True, "asked": False, "permission": status}
    from ..common.picture.opencv import cv2

    capture = cv2.VideoCapture(0)
    try:
        read, picture = capture.read()
        reported = {
            "fps": capture.get(cv2.CAP_PROP_FPS),
            "width": capture.get(cv2.CAP_PROP_FRAME_WIDTH),
            "height": capture.get(cv2.CAP_PROP_FRAME_HEIGHT),
            "opened_by": capture.getBackendName() if capture.isOpened() else "",
        }
    finally:
        capture.release()
    frame = list(picture.shape) if read else None
    return {"ok": True, "permission": status, "reported": reported, "frame": frame}


def camera_permission() -> str:
    """Return this process's permission to use cameras, without asking for it."""
    if sys.platform != "darwin":
        return "no permissions on this system"
    try:
        ctypes.CDLL(_FRAMEWORK)
        objc = ctypes.CDLL("/usr/lib/libobjc.dylib")
        objc.objc_getClass.restype = objc.sel_registerName.restype = ctypes.c_void_p
        objc.objc_getClass.argtypes = objc.sel_registerName.argtypes = [ctypes.c_char_p]

        def send(receiver: object, selector: bytes, kind: type, value: object, gives: type) -> int:
            call = ctypes.CFUNCTYPE(gives, ctypes.c_void_p, ctypes.c_void_p, kind)(
                ("objc_msgSend", objc)
            )
            found: int = call(receiver, objc.sel_registerName(selector), value)
            return found

        text = objc.objc_getClass(b"NSString")
        video = send(text, b"stringWithUTF8String:", ctypes.c_char_p, b"vide", ctypes.c_void_p)
        device = objc.objc_getClass(b"AVCaptureDevice")
        selector = b"authorizationStatusForMediaType:"
        status = send(device, selector, ctypes.c_void_p, video, ctypes.c_long)
    except (OSError, AttributeError, ctypes.ArgumentError) as error:
        return f"unknown ({error})"
    return STATUS.get(status, str(status))
