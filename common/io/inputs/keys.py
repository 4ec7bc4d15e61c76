"""The window's keys: a mapping onto the table of live parameters, and its help. Draws nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from ...live.parameters import PROMPT_EVENTS, Change, Event, Set, Step

ENTER, BACKSPACE, ESCAPE = (13, 10), (8, 127), 27
STEP = 0.1
MOST_TYPED = 400  # characters; more than the 75 tokens a prompt has room for


@dataclass(frozen=True, slots=True)
class KeyRow:
    """Keys that belong together, and their line of help. unnamed: keys that the line leaves out."""

    help: str
    changes: Mapping[str, Change]
    unnamed: str = ""

    @property
    def label(self) -> str:
        """The keys as help names them; of many, the first and the last."""
        names = [_NAMES.get(key, key) for key in self.changes if key not in self.unnamed]
        return " / ".join(names) if len(names) < 3 else f"{names[0]} to {names[-1]}"


_NAMES = {" ": "space", chr(ESCAPE): "esc"}
ROWS = (
    KeyRow("quit", {"q": Event.QUIT, chr(ESCAPE): Event.QUIT}),
    KeyRow("next / previous prompt", {"n": Event.NEXT_PROMPT, "p": Event.PREVIOUS_PROMPT}),
    KeyRow(
        "the first nine prompts",
        {str(number): event for number, event in enumerate(PROMPT_EVENTS, 1)},
    ),
    KeyRow(
        "onwards / back in a bank of prompts, a >> b",
        {".": Step("position", STEP), ",": Step("position", -STEP)},
    ),
    KeyRow(
        "down / up on a pad of prompts, a >> b // c >> d",
        {">": Step("position_y", STEP), "<": Step("position_y", -STEP)},
    ),
    KeyRow("type a new prompt, enter to use it, esc to drop it", {"t": Event.TYPE_PROMPT}),
    KeyRow(
        "more / less feedback of the last picture",
        {"+": Step("feedback", STEP), "-": Step("feedback", -STEP), "=": Step("feedback", STEP)},
        unnamed="=",  # + without shift
    ),
    KeyRow(
        "stronger / weaker control by edges",
        {"k": Step("control_scale", STEP), "j": Step("control_scale", -STEP)},
    ),
    KeyRow(
        "more / less of the camera in the picture",
        {"]": Step("blend", STEP), "[": Step("blend", -STEP)},
    ),
    KeyRow("tap the beat", {"b": Event.TAP}),
    KeyRow("next / previous cue of the schedule", {"v": Event.NEXT_CUE, "z": Event.PREVIOUS_CUE}),
    KeyRow("learn: the MIDI control moved next moves what was changed last", {"m": Event.LEARN}),
    KeyRow("smoothing over time on / off", {"e": Event.SMOOTHING}),
    KeyRow("camera beside the picture / picture only", {"d": Event.SIDE_BY_SIDE}),
    KeyRow("compare: camera on the left half", {"c": Event.SPLIT}),
    KeyRow("the edges that the control reads / the picture", {"x": Event.EDGES}),
    KeyRow("figures and prompt on / off", {"o": Event.OVERLAY}),
    KeyRow("full screen on / off", {"f": Event.FULL_SCREEN}),
    KeyRow("save a snapshot", {"s": Event.SNAPSHOT}),
    KeyRow("record / stop recording", {"r": Event.RECORD}),
    KeyRow("pause / go on", {" ": Step("pause", 1)}),
    KeyRow("this help", {"h": Event.HELP}),
)
KEYS = {key: change for row in ROWS for key, change in row.changes.items()}
HELP = tuple((row.label, row.help) for row in ROWS)


class Keys:
    """Turns key presses into changes. typed: the prompt being typed, None while keys are keys."""

    def __init__(self) -> None:
        self.typed: str | None = None

    def press(self, key: int) -> Change | None:
        """Take one key as a code point; a key without a meaning changes nothing."""
        if self.typed is not None:
            return self._type(key)
        change = KEYS.get(chr(key).lower()) if 0 <= key < 0x110000 else None
        if change is Event.TYPE_PROMPT:
            self.typed = ""
            return None
        return change

    def _type(self, key: int) -> Change | None:
        assert self.typed is not None
        if key in ENTER:
            text, self.typed = " ".join(self.typed.split()), None
            return Set("prompt", text) if text else None
        if key == ESCAPE:
            self.typed = None
        elif key in BACKSPACE:
            self.typed = self.typed[:-1]
        elif 0 <= key < 0x110000 and chr(key).isprintable() and len(self.typed) < MOST_TYPED:
            self.typed += chr(key)
        return None
