"""Cameras as macOS lists them, and camera 0 as OpenCV reports it; nobody is asked."""

from ..common.io.sources import permission
from ..common.io.sources.camera_modes import rates_text
from ..common.io.sources.cameras import list_cameras
from ..common.io.sources.permission import Permission
from .setup import Answer, Setup


def ask_camera(setup: Setup) -> Answer:
    """Return size and reported frame rate of camera 0; only the status without permission."""
    status = permission.camera_permission()
    said = "unknown" if status is None else status.name.lower().replace("_", " ")
    if status is not Permission.ALLOWED:
        return {"ok": True, "asked": False, "permission": said}
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
    return {
        "ok": True,
        "permission": said,
        "cameras": permission.count_cameras(),
        "reported": reported,
        "frame": frame,
    }


def ask_cameras(setup: Setup) -> Answer:
    """Return sizes and rates of every camera that is listed; open none.

    Of a name only the length: the file is published, and an iPhone bears its owner's name.
    """
    listed = [
        {
            "number": each.number,
            "letters_of_name": len(each.name),
            "sizes": {size: rates_text(rates) for size, rates in each.sizes},
        }
        for each in list_cameras()
    ]
    return {"ok": True, "cameras": listed}
