"""The live parameters: the one table of what may change while a session runs.

`LiveParameters` is the table: every field has type, range, unit, default and a line of help, and
says whether it glides. Keys, pages, controllers, schedules, session files, the API and the command
line's options read it through `TABLE`; nobody keeps a second list of names, ranges or defaults.
A change is a `Set`, a `Step` or an `Event`.
"""

from dataclasses import dataclass
from typing import Literal

from ..settings import check_settings, setting, settings_of

EdgeKind = Literal["soft", "canny"]
DEFAULT_PROMPT = "an oil painting"


@dataclass(frozen=True, slots=True)
class LiveParameters:
    """The values of one moment. Raises UsageError for one out of its range."""

    prompt: str = setting(DEFAULT_PROMPT, "what to paint; may blend: '(a sketch:2) and (neon:1)'")
    position: float = setting(
        0.0,
        "place in a bank of prompts 'a >> b >> c': 0 is the first, 1 the second",
        minimum=0,
        unit="prompts",
        glides=True,
        flag="",
    )
    seed: int = setting(0, "seed of the noise; the same seed gives the same picture", minimum=0)
    strength: float | None = setting(
        None,
        "denoising strength; higher keeps less of the camera; for models trained for it",
        minimum=0,
        maximum=1,
        shown="the checkpoint's",
        at_start=True,
    )
    control_scale: float = setting(
        1.0,
        "weight of the ControlNet residuals; 0 leaves the ControlNet out",
        minimum=0,
        maximum=2,
        glides=True,
    )
    edges: EdgeKind = setting("soft", "edges that the ControlNet reads: soft, or canny (paper)")
    feedback: float = setting(
        0.0,
        "share of the last picture in the next one's latents",
        minimum=0,
        maximum=1,
        glides=True,
    )
    ema: float = setting(
        0.0, "smoothing over time: weight of the past", minimum=0, maximum=0.99, glides=True
    )
    blend: float = setting(
        0.0, "share of the camera mixed into the picture", minimum=0, maximum=1, glides=True
    )
    skip: float = setting(
        0.0,
        "reuse the picture while the camera's mean change is at most this; 0: only if nothing "
        "changed; below 0: never",
        minimum=-255,
        maximum=255,
        unit="levels of 255",
    )
    transition: float = setting(
        0.0, "time from one prompt to the next", minimum=0, maximum=3600, unit="s", flag=""
    )
    pause: bool = setting(False, "hold the picture", flag="")
    mirror: bool = setting(False, "mirror the camera, as a looking glass does")

    def __post_init__(self) -> None:
        check_settings(self)


TABLE = {each.name: each for each in settings_of(LiveParameters)}


@dataclass(frozen=True, slots=True)
class Set:
    """Give a parameter a value."""

    name: str
    value: object


@dataclass(frozen=True, slots=True)
class Step:
    """Move a number by `delta`, within its range."""

    name: str
    delta: float
