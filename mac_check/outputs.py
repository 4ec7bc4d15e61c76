"""Outputs that only a Mac has: Syphon there and back, and the camera of OBS. Nothing is installed.

Both are extras, so that an answer may be that they are not installed.
"""

import time
from importlib.util import find_spec

import numpy as np

from ..common.errors import SdxsError
from ..common.io.outputs.plan import OutputPlan
from ..common.io.outputs.process import ProcessOutlet
from ..common.io.outputs.registry import OUTPUTS
from ..common.io.sources.received import Received
from .setup import Answer, Setup

SIDE, PICTURES, RATE_S = 64, 90, 1 / 30
NAME = "sdxs mac-check"


def ask_syphon(setup: Setup) -> Answer:
    """Send a picture by Syphon and receive it in another process: found, colours, which way up."""
    if find_spec(OUTPUTS["syphon"].package) is None:
        return {"ok": True, "asked": False, "why": "syphon-python is not installed"}
    picture = _card()
    outlet = _opened("syphon", NAME)
    source: Received | None = None
    try:
        outlet.send(picture, 0.0)
        source = Received(".syphon:SyphonInlet", f"syphon:{NAME}", NAME)
        got = None
        for number in range(PICTURES):
            outlet.send(picture, number * RATE_S)
            got = source.read() if number == PICTURES - 1 else None
            time.sleep(RATE_S)
    except SdxsError as error:
        return {"ok": False, "asked": True, "error": str(error)}
    finally:
        outlet.close()
        if source:
            source.close()
    return {"ok": True, "asked": True, **compared(picture, got)}


def ask_vcam(setup: Setup) -> Answer:
    """Send pictures to OBS' virtual camera, which has to be installed; look at nothing."""
    if find_spec(OUTPUTS["vcam"].package) is None:
        return {"ok": True, "asked": False, "why": "pyvirtualcam is not installed"}
    try:
        outlet = _opened("vcam", "")
    except SdxsError as error:
        return {"ok": False, "asked": True, "error": str(error)}
    try:
        began = time.perf_counter()
        for number in range(PICTURES):
            outlet.send(_card(), number * RATE_S)
        took_ms = (time.perf_counter() - began) / PICTURES * 1000
    except SdxsError as error:
        return {"ok": False, "asked": True, "error": str(error)}
    finally:
        outlet.close()
    return {"ok": True, "asked": True, "sent": PICTURES, "ms_a_picture": round(took_ms, 2)}


def compared(picture: np.ndarray, got: np.ndarray | None) -> Answer:
    """Say how a picture came back. picture: RGB, got: BGR."""
    if got is None or got.shape != picture.shape:
        return {"came": False, "shape": None if got is None else list(got.shape)}
    back = got[..., ::-1]
    ways = {"upright": back, "upside down": back[::-1], "red and blue swapped": got}
    errors = {
        way: round(float(np.abs(each.astype(int) - picture).mean()), 2)
        for way, each in ways.items()
    }
    return {"came": True, "came_as": min(errors, key=errors.__getitem__), "errors": errors}


def _card() -> np.ndarray:
    """Return a picture that tells up from down and red from blue."""
    card = np.zeros((SIDE, SIDE, 3), np.uint8)
    card[..., 0] = np.linspace(0, 255, SIDE, dtype=np.uint8)[:, None]
    card[..., 2] = 40
    return card


def _opened(kind: str, name: str) -> ProcessOutlet:
    plan = OutputPlan(f"{kind}:{name}", name, 30.0, SIDE, SIDE)
    return ProcessOutlet(OUTPUTS[kind].outlet, plan, bool)
