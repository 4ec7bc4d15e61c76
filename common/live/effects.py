"""Let a changed value of a live parameter take effect in a running session, and say it."""

from collections.abc import Mapping

from ..backend.protocol import FrameParams
from .parameters import LORA_SCALE, LiveParameters
from .parts import SessionParts


def pass_on(name: str, values: LiveParameters, parts: SessionParts) -> None:
    """Hand a changed value to the threads; what the viewer shows of it is a note. Main thread.

    name: of the parameter; prompt and position, which are encoded first, are the session's own.
    """
    loop, note = parts.loop, f"{name} {_said(getattr(values, name))}"
    match name:
        case "seed" | "feedback" | "control_scale" | "lora_scale":
            loop.set_params(frame_params(values, parts.unusable))
        case "edges":
            loop.set_edges(values.edges)
        case "skip":
            loop.set_skip(values.skip)
        case "transition":
            loop.set_transition(values.transition)
        case "mirror":
            loop.set_mirror(values.mirror)
        case "pause":
            loop.pause(values.pause)
    if name in ("feedback", "control_scale"):
        note = f"feedback {values.feedback:.1f}"
        if "control_scale" not in parts.unusable:
            note += f" \u00b7 control {values.control_scale:.1f}"
    elif name in ("ema", "blend"):
        note = f"smoothing {values.ema:.1f} \u00b7 camera {values.blend:.1f}"
    if name != "pause":  # which is said as long as it lasts
        parts.viewer.say(note)


def frame_params(values: LiveParameters, unusable: Mapping[str, str]) -> FrameParams:
    """What backends take of the live parameters with each frame."""
    usable = "control_scale" not in unusable
    return FrameParams(
        values.seed,
        values.feedback,
        values.control_scale if usable else 0.0,
        lora_scale=1.0 if LORA_SCALE in unusable else values.lora_scale,
    )


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
