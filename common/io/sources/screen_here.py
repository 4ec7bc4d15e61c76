"""Whether screens can be captured on this machine, for `sdxs doctor`; asks nobody."""

import sys
from importlib import metadata

from ...errors import SourceError, UsageError
from .screen import what_is_shown

State = tuple[bool | None, str, str]  # see `inputs/here.py`


def screen_here() -> State:
    """List monitors, and say why there are none, or why they cannot be captured."""
    name = "pyobjc-framework-ScreenCaptureKit" if sys.platform == "darwin" else "mss"
    try:
        found = what_is_shown()
    except UsageError:
        remedy = "pip install 'sdxs[screen]', for --source screen:"
        return None, f"{name} is not installed", remedy
    except SourceError as error:
        return None, str(error), "do that, or use another source"
    said = f"{_with_version(name)}; {found.monitors_text}; {len(found.windows)} window"
    said += "s" if len(found.windows) != 1 else ""
    if sys.platform != "darwin":
        from .screen_x11 import WAYLAND, is_wayland

        if is_wayland():
            return None, said, WAYLAND
    return True, f"{said}: screen:1", ""


def _with_version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package
