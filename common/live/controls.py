"""Keys and typing, turned into changes of a running session. Knows no window and draws nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import ClassVar

from ..backend.protocol import FrameParams
from ..prompt.syntax import KEYED, move

ENTER, BACKSPACE, ESCAPE = (13, 10), (8, 127), 27
STEP = 0.1
MOST_TYPED = 400  # characters; more than the 75 tokens a prompt has room for

HELP = (
    ("q or esc", "quit"),
    ("n / p", "next / previous prompt"),
    ("1/2/3/4/5/6/7/8/9", "the first nine prompts"),
    (". / ,", "onwards / back in a bank of prompts, a >> b"),
    ("t", "type a new prompt, enter to use it, esc to drop it"),
    ("+ / -", "more / less feedback of the last picture"),
    ("k / j", "stronger / weaker control by edges"),
    ("] / [", "more / less of the camera in the picture"),
    ("e", "smoothing over time on / off"),
    ("d", "camera beside the picture / picture only"),
    ("c", "compare: camera on the left half"),
    ("x", "the edges that the control reads / the picture"),
    ("o", "figures and prompt on / off"),
    ("f", "full screen on / off"),
    ("s", "save a snapshot"),
    ("r", "record / stop recording"),
    ("space", "pause / go on"),
    ("h", "this help"),
)


class View(Enum):
    """What is on the screen."""

    OUTPUT = auto()
    SIDE_BY_SIDE = auto()
    SPLIT = auto()
    EDGES = auto()


class Event(Enum):
    """What only the session can do."""

    QUIT = auto()
    SNAPSHOT = auto()
    RECORD = auto()
    PAUSE = auto()
    PROMPT = auto()
    PARAMS = auto()
    LOOK = auto()
    FULL_SCREEN = auto()
    NO_EDGES = auto()


@dataclass(slots=True)
class Look:
    """How pictures are shown: `ema` is the weight of the past, `blend` that of the camera, both 0
    to 1.

    has_edges: whether a ControlNet reads edges in this session.
    """

    view: View = View.OUTPUT
    ema: float = 0.0
    blend: float = 0.0
    overlay: bool = False
    help: bool = False
    typed: str | None = None
    paused: bool = False
    has_edges: bool = False


class Controls:
    """The state that keys change. `press` returns what the session has to do about it."""

    def __init__(self, prompts: Sequence[str], params: FrameParams, look: Look) -> None:
        """Raise ValueError without a prompt: there is always one on the screen."""
        if not prompts:
            raise ValueError("controls need at least one prompt")
        self.prompts = list(prompts)
        self.index = 0
        self.params = params
        self.look = look
        self._smooth = look.ema or 0.6

    @property
    def prompt(self) -> str:
        return self.prompts[self.index]

    def press(self, key: int) -> Event | None:
        """Take one key as a code point; a key without a meaning changes nothing."""
        if self.look.typed is not None:
            return self._type(key)
        if key == ESCAPE:
            return Event.QUIT
        action = self._ACTIONS.get(chr(key).lower()) if 0 <= key < 0x110000 else None
        return action(self) if action else None

    def turn(self, step: int) -> Event:
        """Move on in the list of prompts, round and round."""
        self.index = (self.index + step) % len(self.prompts)
        return Event.PROMPT

    def _go_to(self, number: int) -> Event | None:
        """Go to the prompt of a key, 1 to 9, if the list has so many."""
        if number > len(self.prompts):
            return None
        self.index = number - 1
        return Event.PROMPT

    def _travel(self, step: float) -> Event | None:
        """Go on in a bank of prompts, in place; another prompt stays what it is."""
        moved = move(self.prompt, step)
        if moved == self.prompt:
            return None
        self.prompts[self.index] = moved
        return Event.PROMPT

    def _type(self, key: int) -> Event | None:
        assert self.look.typed is not None
        if key in ENTER:
            text, self.look.typed = " ".join(self.look.typed.split()), None
            return self._use(text) if text else None
        if key == ESCAPE:
            self.look.typed = None
        elif key in BACKSPACE:
            self.look.typed = self.look.typed[:-1]
        elif 0 <= key < 0x110000 and chr(key).isprintable() and len(self.look.typed) < MOST_TYPED:
            self.look.typed += chr(key)
        return None

    def _use(self, text: str) -> Event:
        """Go to a typed prompt, which becomes the next in the list unless it is there already."""
        if text not in self.prompts:
            self.prompts.insert(self.index + 1, text)
        self.index = self.prompts.index(text)
        return Event.PROMPT

    def _feedback(self, step: float) -> Event:
        # A session may have been started with more than the keys lead to; a step towards it must
        # not jump.
        most = max(0.9, self.params.feedback)
        self.params = replace(
            self.params, feedback=round(min(most, max(0.0, self.params.feedback + step)), 2)
        )
        return Event.PARAMS

    def _control(self, step: float) -> Event:
        if not self.look.has_edges:
            return Event.NO_EDGES
        most = max(2.0, self.params.control_scale)
        scale = round(min(most, max(0.0, self.params.control_scale + step)), 2)
        self.params = replace(self.params, control_scale=scale)
        return Event.PARAMS

    def _toggle_edges(self) -> Event | None:
        return self._toggle_view(View.EDGES) if self.look.has_edges else Event.NO_EDGES

    def _blend(self, step: float) -> Event:
        self.look.blend = round(min(1.0, max(0.0, self.look.blend + step)), 2)
        return Event.LOOK

    def _toggle_smoothing(self) -> Event:
        self.look.ema = 0.0 if self.look.ema else self._smooth
        return Event.LOOK

    def _toggle_view(self, view: View) -> None:
        self.look.view = View.OUTPUT if self.look.view is view else view

    def _toggle_overlay(self) -> None:
        self.look.overlay = not self.look.overlay

    def _toggle_help(self) -> None:
        self.look.help = not self.look.help

    def _start_typing(self) -> None:
        self.look.typed = ""

    _ACTIONS: ClassVar[dict[str, Callable[["Controls"], Event | None]]] = {
        "q": lambda self: Event.QUIT,
        "n": lambda self: self.turn(1),
        "p": lambda self: self.turn(-1),
        **{str(n): lambda self, n=n: self._go_to(n) for n in range(1, KEYED + 1)},
        ".": lambda self: self._travel(STEP),
        ",": lambda self: self._travel(-STEP),
        "t": _start_typing,
        "+": lambda self: self._feedback(STEP),
        "=": lambda self: self._feedback(STEP),
        "-": lambda self: self._feedback(-STEP),
        "k": lambda self: self._control(STEP),
        "j": lambda self: self._control(-STEP),
        "x": _toggle_edges,
        "]": lambda self: self._blend(STEP),
        "[": lambda self: self._blend(-STEP),
        "e": _toggle_smoothing,
        "d": lambda self: self._toggle_view(View.SIDE_BY_SIDE),
        "c": lambda self: self._toggle_view(View.SPLIT),
        "o": _toggle_overlay,
        "f": lambda self: Event.FULL_SCREEN,
        "s": lambda self: Event.SNAPSHOT,
        "r": lambda self: Event.RECORD,
        " ": lambda self: Event.PAUSE,
        "h": _toggle_help,
    }
