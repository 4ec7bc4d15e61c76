"""The cameras of this machine, by number and by name. None is opened, and nobody is asked."""

import sys

from ...errors import SourceError, UsageError
from . import avfoundation, v4l2
from .camera_modes import CameraInfo

LIST = "`sdxs doctor --cameras` lists them with their sizes"


def list_cameras() -> list[CameraInfo]:
    """Return the cameras in OpenCV's order. Raises SourceError where the system does not tell."""
    if sys.platform == "linux":
        return v4l2.cameras()
    if sys.platform == "darwin":
        try:
            return avfoundation.cameras()
        except (OSError, AttributeError, ValueError) as error:
            raise SourceError(
                f"macOS' AVFoundation does not list cameras as expected ({error}); name one by its "
                "number, as --camera 0"
            ) from None
    raise SourceError(
        f"cameras cannot be listed on {sys.platform}; name one by its number, as --camera 0"
    )


def camera_number(text: str) -> int:
    """Return OpenCV's index of a camera by its number, its name or a unique part of the name.

    A number is not looked up: opening shows whether it is there. Raises UsageError, SourceError.
    """
    return int(text) if text.isdecimal() else find_camera(text).number


def find_camera(text: str) -> CameraInfo:
    """Return the one camera of this name or with this part in its name, whatever the case.

    Raises UsageError if there is none or more than one, SourceError where none are listed.
    """
    wanted = text.strip().casefold()
    if not wanted:
        raise UsageError(f"the name of a camera is empty; expected a number or a name; {LIST}")
    cameras = list_cameras()
    found = [each for each in cameras if each.name.casefold() == wanted] or [
        each for each in cameras if wanted in each.name.casefold()
    ]
    if not found:
        raise UsageError(f"no camera is called {text.strip()!r}; {_listed(cameras)}; {LIST}")
    if len(found) > 1:
        raise UsageError(
            f"{text.strip()!r} fits {len(found)} cameras; {_listed(found)}; give more of the name, "
            "or the number"
        )
    return found[0]


def number_of(name: str) -> int | None:
    """Return the index that the one camera of exactly this name has now; None if it is gone."""
    found = [each.number for each in _known() if each.name == name]
    return found[0] if len(found) == 1 else None


def info_of(number: int) -> CameraInfo:
    """Return what is known of a camera; without modes if nothing is."""
    return next((each for each in _known() if each.number == number), CameraInfo(number, ""))


def cameras_found() -> str:
    """Say in a few words which cameras there are; '' where the system does not tell."""
    try:
        return _listed(list_cameras())
    except SourceError:
        return ""


def _known() -> list[CameraInfo]:
    try:
        return list_cameras()
    except SourceError:  # numbers and drivers' answers are all there is
        return []


def _listed(cameras: list[CameraInfo]) -> str:
    named = ", ".join(f"{each.number} ({each.name})" for each in cameras)
    return f"cameras found: {named}" if cameras else "no camera was found"
