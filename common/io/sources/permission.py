"""The permission to use a camera, which macOS gives by program, in a dialog.

OpenCV asks for it, waits a tenth of a second and gives up while the dialog is still open. So ask
first, and wait for the answer.
"""

import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum

from ...errors import SdxsWarning, SourceError
from ...picture.opencv import cv2
from . import avfoundation

ANSWER_S = 60.0  # for the user
LOOK_S = 0.5
BLIND_S = 30.0  # where the permission cannot be read, only tries tell
SOON_S = 1.0  # a camera that is refused fails at once, a camera in use takes longer
SETTINGS = (
    "System Settings > Privacy & Security > Camera: allow the program this runs in (Terminal, "
    "iTerm, your editor), then restart it"
)


class Permission(IntEnum):
    """AVAuthorizationStatus of AVFoundation."""

    NOT_ASKED = 0
    RESTRICTED = 1
    DENIED = 2
    ALLOWED = 3


def camera_permission() -> Permission | None:
    """Return the permission of this program; None where it cannot be read, or none is needed."""
    with suppress(OSError, AttributeError, ValueError):
        if sys.platform == "darwin":
            return Permission(avfoundation.authorization())
    return None


def count_cameras() -> int | None:
    """Return the number of cameras that macOS lists, an iPhone nearby included; None elsewhere."""
    with suppress(OSError, AttributeError, ValueError):
        if sys.platform == "darwin":
            return avfoundation.count_devices()
    return None


def ask_for_camera(
    index: int,
    say: Callable[[str], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Ask macOS for permission, and wait up to a minute for the user's answer. Main thread.

    say: told once that the user is asked; by default an SdxsWarning. Raises SourceError if it is
    refused or nobody answers. Does nothing on other systems.
    """
    if sys.platform != "darwin":
        return
    permission = camera_permission()
    if permission is None:
        _try_blindly(index, say or _warn, sleep, now)
    elif permission is Permission.NOT_ASKED:
        _opens(index)  # which asks
        (say or _warn)("macOS asks whether this program may use the camera: allow it in the dialog")
        deadline = now() + ANSWER_S
        while (permission := camera_permission()) is Permission.NOT_ASKED:
            if now() > deadline:
                raise SourceError(
                    f"camera {index}: nobody answered macOS's dialog in {ANSWER_S:.0f} s; start "
                    f"again and allow it there, or in {SETTINGS}"
                )
            sleep(LOOK_S)
    if permission in (Permission.DENIED, Permission.RESTRICTED):
        raise SourceError(
            f"camera {index}: macOS does not allow this program to use it; in {SETTINGS}; "
            "`--source synthetic` or a video file needs no camera"
        )


def _try_blindly(
    index: int,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
    now: Callable[[], float],
) -> None:
    """Open the camera again and again while it fails as fast as one that is refused."""
    began, said = now(), False
    while True:
        tried = now()
        if _opens(index) or now() - tried > SOON_S:
            return
        if now() - began > BLIND_S:
            raise SourceError(
                f"camera {index} cannot be opened; check that one is connected and free; in "
                f"{SETTINGS}"
            )
        if not said:
            say("if macOS asks whether this program may use the camera, allow it in the dialog")
            said = True
        sleep(LOOK_S)


def _opens(index: int) -> bool:
    """Open a camera and close it again; tell whether it opened."""
    try:
        capture = cv2.VideoCapture(index)
        opened: bool = capture.isOpened()
        capture.release()
    except (cv2.error, OverflowError):  # a number that no integer of OpenCV's holds
        return False
    return opened


def _warn(text: str) -> None:
    warnings.warn(text, SdxsWarning, stacklevel=3)
