"""Let a changed value of a live parameter take effect in a running session, and say it."""

from collections.abc import Mapping

from ..backend.protocol import FrameParams
from .parameters import LORA_SCALE, LiveParameters
from .parts import SessionParts


def pass_on(
    name: str, values: LiveParameters, parts: SessionParts, said: LiveParameters | None = None
) -> None:
    """Hand a changed value to the threads; what the viewer shows of it is a note. Main thread.

    name: of the parameter; prompt and position, which are encoded first, are the session's own.
    values: in force, with what sound adds. said: those that were set; None says nothing.
    """
    loop = parts.loop
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
    if said is not None and name != "pause":  # which is said as long as it lasts
        parts.viewer.say(_note(name, said, parts.unusable))


def _note(name: str, values: LiveParameters, unusable: Mapping[str, str]) -> str:
    if name in ("feedback", "control_scale"):
        note = f"feedback {values.feedback:.1f}"
        if "control_scale" not in unusable:
            note += f" \u00b7 control {values.control_scale:.1f}"
        return note
    if name in ("ema", "blend"):
        return f"smoothing {values.ema:.1f} \u00b7 camera {values.blend:.1f}"
    return f"{name} {_said(getattr(values, name))}"


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
