"""The live parameters: the one table of what may change while a session runs.

`LiveParameters` is the table: every field has type, range, unit, default and a line of help, and
says whether it glides. Keys, pages, controllers, schedules, session files, the API and the command
line's options read it through `TABLE`; nobody keeps a second list of names, ranges or defaults.
A change is a `Set`, a `Step`, an `Event` or a `Cue`; `apply` makes new values of the first two.

What one window shows (view, figures, help, a text being typed) is no parameter: it changes no
frame, and a second window or a page has its own. Its changes are events.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from ..errors import UsageError, in_a_line
from ..picture.edge_kinds import EdgeKind
from ..prompt.syntax import parse_prompt, split_place, with_place
from ..settings import Setting, check_settings, setting, settings_of

DEFAULT_PROMPT = "an oil painting"
PLACES = ("position", "position_y")  # in a bank or on a pad; a new prompt brings its own
LORA_SCALE = "lora_scale"
OF_CONTROL = ("control_scale", "edges")  # without a ControlNet these change nothing


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
    position_y: float = setting(
        0.0,
        "place down a pad of prompts 'a >> b // c >> d': 0 is the upper edge, 1 the lower one",
        minimum=0,
        maximum=1,
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
    lora_scale: float = setting(
        1.0,
        "factor on the weights of all LoRAs; 0 leaves them out",
        minimum=0,
        maximum=4,
        glides=True,
    )
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

    @property
    def written_prompt(self) -> str:
        """The prompt with its place, as a user writes it: 'a >> b @ 0.3'."""
        return with_place(self.prompt, self.position, self.position_y)


TABLE = {each.name: each for each in settings_of(LiveParameters)}


@dataclass(frozen=True, slots=True)
class Set:
    """Give a parameter a value; one that glides may take `over_s` seconds to get there."""

    name: str
    value: object
    over_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """Move a number by `delta`, within its range."""

    name: str
    delta: float


class Event(Enum):
    """A change that gives no parameter a value by itself."""

    QUIT = "quit"
    SNAPSHOT = "snapshot"
    RECORD = "record"
    NEXT_PROMPT = "next prompt"
    PREVIOUS_PROMPT = "previous prompt"
    PROMPT_1 = "prompt 1"
    PROMPT_2 = "prompt 2"
    PROMPT_3 = "prompt 3"
    PROMPT_4 = "prompt 4"
    PROMPT_5 = "prompt 5"
    PROMPT_6 = "prompt 6"
    PROMPT_7 = "prompt 7"
    PROMPT_8 = "prompt 8"
    PROMPT_9 = "prompt 9"
    SMOOTHING = "smoothing"
    TAP = "tap"  # a beat, now
    NEXT_CUE = "next cue"
    PREVIOUS_CUE = "previous cue"
    RESTART = "restart"  # the schedule
    LEARN = "learn"  # which MIDI control moves the parameter that was changed last
    # of the window alone
    TYPE_PROMPT = "type a prompt"
    SIDE_BY_SIDE = "side by side"
    SPLIT = "split"
    EDGES = "edges"
    OVERLAY = "overlay"
    FULL_SCREEN = "full screen"
    HELP = "help"


@dataclass(frozen=True, slots=True)
class Cue:
    """Go to a place of the schedule, by the name that it has there."""

    name: str


PROMPT_EVENTS = tuple(each for each in Event if each.value.startswith("prompt "))
Change = Set | Step | Event | Cue
LONGEST_GLIDE_S = 3600.0

# Where steps end before the range does; only a Set goes on. With more feedback than this the
# picture hardly follows the camera.
_STEPS_END = {"feedback": 0.9}
DECIMALS = 6  # 0.1 + 0.2 is 0.30000000000000004


def row_of(name: str) -> Setting:
    """Return the row of a parameter. Raises UsageError, which lists them, for an unknown name."""
    row = TABLE.get(name)
    if row is None:
        raise UsageError(f"unknown parameter {in_a_line(name)!r}; known are {', '.join(TABLE)}")
    return row


def apply(
    values: LiveParameters,
    change: Set | Step,
    unusable: Mapping[str, str] = MappingProxyType({}),
) -> LiveParameters:
    """Return the values after a change; a Step stops at the end of the range.

    A Step turns a switch over and goes round the choices. unusable: parameters without effect in
    this session, each with the reason. Raises UsageError for these, for an unknown name, for a
    value out of range and for a parameter that is fixed at the start.
    """
    row = row_of(change.name)
    if isinstance(change, Set) and change.over_s:
        _check_glide(row, change.over_s)
    if row.at_start:
        raise UsageError(f"{row.name}: is fixed once a session runs; start it with {row.flag}")
    if row.name in unusable:
        raise UsageError(unusable[row.name])
    value = _stepped(values, row, change.delta) if isinstance(change, Step) else change.value
    value = row.check(value, row.name)
    if row.kind is float and isinstance(value, int):
        value = float(value)
    if row.name == "prompt":
        return with_prompt(values, str(value))
    if row.name in PLACES:
        last = last_place(values, row.name)
        if not isinstance(value, float) or value > last:
            edge = "the last stop" if row.name == "position" else "the lower edge"
            written = "banks are written 'a sketch >> pop art'"
            if row.name == "position_y":
                written = "pads are written 'a >> b // c >> d'"
            raise UsageError(
                f"{row.name} {value}: expected a number from 0 to {last}, {edge} of "
                f"{values.prompt[:60]!r}; {written}"
            )
    return _replaced(values, row.name, value)


def _check_glide(row: Setting, over_s: float) -> None:
    if not row.glides:
        gliding = ", ".join(each.name for each in TABLE.values() if each.glides)
        raise UsageError(f"{row.name}: does not glide; those that do are {gliding}")
    if not 0 < over_s <= LONGEST_GLIDE_S:
        raise UsageError(
            f"{row.name}: a glide of {over_s:g} s; expected seconds from 0 to {LONGEST_GLIDE_S:g}"
        )


def with_prompt(values: LiveParameters, text: str) -> LiveParameters:
    """Return the values with a prompt as a user writes it; 'a >> b @ 0.3' sets the position too.

    Raises UsageError.
    """
    prompt, position, position_y = split_place(text)
    return replace(values, prompt=prompt, position=position, position_y=position_y)


def _stepped(values: LiveParameters, row: Setting, delta: float) -> object:
    now = getattr(values, row.name)
    if not math.isfinite(delta):
        raise UsageError(f"{row.name}: a step of {delta}; expected a finite number")
    if row.kind is bool:
        return bool(now) != bool(delta)
    if row.choices:
        return row.choices[(row.choices.index(now) + round(delta)) % len(row.choices)]
    if row.kind not in (int, float):
        raise UsageError(f"{row.name}: is a text and cannot be stepped; set it")
    low = -math.inf if row.minimum is None else row.minimum
    high = math.inf if row.maximum is None else row.maximum
    if row.name in PLACES:
        high = last_place(values, row.name)
    # A session may have begun beyond the end of the steps; a step towards it must not jump back.
    high = max(_STEPS_END.get(row.name, high), now)
    moved = min(high, max(low, now + delta))
    return round(moved) if row.kind is int else round(moved, DECIMALS)


def last_place(values: LiveParameters, name: str) -> int:
    """Return the largest value that one of PLACES has with the prompt of these values."""
    parsed = parse_prompt(values.prompt)
    return parsed.last if name == "position" else int(bool(parsed.below))


def _replaced(values: LiveParameters, name: str, value: object) -> LiveParameters:
    changed = {each: getattr(values, each) for each in TABLE} | {name: value}
    return LiveParameters(**changed)
