"""The screen as ScreenCaptureKit hands it over; nobody is asked."""

import time

from ..common.errors import SdxsError
from ..common.io.sources import screen_mac
from ..common.io.sources.screen import what_is_shown
from ..common.io.sources.screen_names import Wanted
from .setup import Answer, Setup

FRAMES = 30


def ask_screen(setup: Setup) -> Answer:
    """Return sizes and rate of monitor 1; only what is missing without PyObjC or permission.

    Of windows only the number: the file is published, and titles tell what somebody reads.
    """
    try:
        allowed = screen_mac.may_record()
        listed = what_is_shown() if allowed else None
    except SdxsError as error:
        return {"ok": True, "asked": False, "why": str(error)}
    if listed is None:
        return {"ok": True, "asked": False, "permission": "not given"}
    source = screen_mac.MacScreen(Wanted())
    try:
        shapes = [list(each.shape) for each in (source.read(), source.read()) if each is not None]
        began = time.perf_counter()
        for _ in range(FRAMES):
            source.read()
        seconds = time.perf_counter() - began
    except SdxsError as error:
        return {"ok": False, "error": str(error)}
    finally:
        source.close()
    wanted = screen_mac.bounded(*listed.monitors[0])
    return {
        "ok": shapes[-1] == [wanted[1], wanted[0], 3],
        "monitors": [list(each) for each in listed.monitors],
        "windows": len(listed.windows),
        "shapes": shapes,
        "reads_per_s": round(FRAMES / seconds, 1),  # 4 where nothing moves
        "sent": source.sent,
    }
