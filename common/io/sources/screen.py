"""What a screen or a window shows: `screen:`, `screen:2`, `screen:part of a window's title`.

Linux reads X11, by mss (`screen_x11.py`); macOS is asked by ScreenCaptureKit (`screen_mac.py`),
because the older calls that mss makes there are gone from macOS 26.
"""

import sys

from ..inputs.extras import needing
from ..kinds import split_kind
from .protocol import Source
from .screen_names import Shown, read_wanted

KIND = "screen"
NEEDS = "--source screen:", "screen"  # option and extra


def check_screen(spec: str) -> None:
    """Check, before anything is downloaded, that a screen can be captured, if a source names one.

    On a Mac that has not been asked for permission, this asks. Raises UsageError, SourceError.
    """
    if (split_kind(spec) or ("", ""))[0] != KIND:
        return
    with needing(*NEEDS):
        if sys.platform == "darwin":
            from .screen_mac import ask_for_screen

            ask_for_screen()
        else:
            from .screen_x11 import shown

            shown()


def open_screen(rest: str) -> Source:
    """Open a monitor or a window. Raises UsageError, SourceError."""
    wanted = read_wanted(rest)
    with needing(*NEEDS):
        if sys.platform == "darwin":
            from .screen_mac import MacScreen

            return MacScreen(wanted)
        from .screen_x11 import X11Screen

        return X11Screen(wanted)


def what_is_shown() -> Shown:
    """List monitors and windows, and ask nobody. Raises UsageError, SourceError."""
    with needing(*NEEDS):
        if sys.platform == "darwin":
            from .screen_mac import shown
        else:
            from .screen_x11 import shown
        return shown()
