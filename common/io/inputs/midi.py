"""MIDI: a device's controls move parameters, a learned map says which, and its clock is the beat.

mido reads messages, and python-rtmidi ports where one is opened. In learn mode the control that is
moved next is bound to what was changed last, by a key, the page or any other input.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

import mido

from ...errors import SdxsError, UsageError, in_a_line, reason
from ...live.parameters import PROMPT_EVENTS, Event
from .controls import Controls, News
from .midi_map import (
    LEAST_OF_LSB,
    RELATIVE,
    Binding,
    Control,
    MidiMap,
    change_of,
    learnable,
    steps_of,
    way_of,
)
from .tempo import Tempo

ORIGIN = "midi"
NO_PORTS = "no MIDI input is connected; connect a device"


class Message(Protocol):
    """What mido hands over; it has the numbers that belong to its type."""

    type: str
    channel: int  # 0 to 15
    control: int
    value: int
    note: int
    velocity: int
    program: int
    pitch: int


class Port(Protocol):
    def close(self) -> None: ...


Opener = Callable[[str, Callable[[Message], None]], Port]


def port_names() -> list[str]:
    """Return the names of the MIDI inputs. Raises UsageError, and ImportError without rtmidi."""
    try:
        return list(dict.fromkeys(mido.get_input_names()))
    except OSError as error:  # rtmidi's own errors, too
        raise UsageError(f"the system has no MIDI ({reason(error)})") from None


def find_port(part: str) -> str:
    """Return the one MIDI input whose name has a part in it. Raises UsageError."""
    names = port_names()
    found = [name for name in names if part.lower() in name.lower()]
    exact = [name for name in names if name == part]
    if len(exact or found) == 1:
        return (exact or found)[0]
    here = f"there are {', '.join(map(in_a_line, names))}" if names else NO_PORTS
    many = "several inputs have it in their names" if found else "no MIDI input has this name"
    raise UsageError(f"--midi {part}: {many}; {here}")


class MidiInput:
    """One MIDI input. See `Input`; `take` may be called by any one thread, the port's say."""

    def __init__(
        self,
        part: str,
        kept: MidiMap,
        tempo: Tempo,
        clock: Callable[[], float],
        opener: Opener | None = None,
    ) -> None:
        """Find the port. part: of its name. opener: by default mido's. Raises UsageError."""
        self.name = find_port(part) if opener is None else part
        self._open = opener or (lambda name, take: mido.open_input(name, callback=take))
        self._map = kept
        self._tempo, self._clock = tempo, clock
        self._lock = threading.Lock()
        self._learning = ""  # what the next control is to move
        self._changed_last = ""
        self._new: tuple[Control, list[int]] | None = None  # just bound, and what it has sent
        self._held: dict[Control, float] = {}  # the last value of each knob
        self._port: Port | None = None
        self._stop: Callable[[], None] = lambda: None

    def start(self, controls: Controls) -> None:
        self._controls = controls
        self._stop = controls.watch(self._follow)
        try:
            self._port = self._open(self.name, self._take)
        except OSError as error:
            raise UsageError(f"--midi {self.name}: cannot be opened ({reason(error)})") from None

    def close(self) -> None:
        self._stop()
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def learn(self, name: str) -> None:
        """Bind the control that is moved next to a parameter or event. Raises UsageError."""
        if not name:
            raise UsageError("learn: change a parameter first, then the control moves it")
        if not learnable(name):
            raise UsageError(f"learn: {name} is a text, which no control can move")
        with self._lock:
            self._learning, self._new = name, None
        self._controls.say(f"move a control of {self.name} for {name}")

    def _follow(self, news: News) -> None:
        """Note what was changed last, and learn when asked. Main thread."""
        if news.event is Event.LEARN:
            try:
                self.learn(self._changed_last)
            except UsageError as error:
                self._controls.say(str(error))
        elif news.origin == ORIGIN:
            return
        elif news.event is not None:
            self._changed_last = news.event.value
        elif any(map(learnable, news.names)):
            self._changed_last = next(name for name in reversed(news.names) if learnable(name))

    # The port's thread.

    def _take(self, message: Message) -> None:
        try:
            self.take(message)
        except BaseException as error:
            self._controls.fail(error)

    def take(self, message: Message) -> None:
        """Do what a message asks for."""
        kind = message.type
        if kind == "clock":
            self._tempo.clock(self._clock())
        elif kind == "start":
            self._tempo.begin(self._clock())
        elif kind == "control_change":
            self._turn(message)
        elif kind in ("note_on", "note_off"):
            hit = message.velocity / 127 if kind == "note_on" else 0.0
            self._hit(Control("note", message.channel + 1, message.note), hit)
        elif kind == "program_change":
            self._hit(Control("program", message.channel + 1, message.program), 1.0)
        elif kind == "pitchwheel":
            control = Control("bend", message.channel + 1)
            self._bind(control)
            self._move(control, (message.pitch + 8192) / 16383)

    def _turn(self, message: Message) -> None:
        """Take a control change: of a knob, its fine half, or an encoder."""
        control = Control("cc", message.channel + 1, message.control)
        if self._refine(control, message.value):
            return
        coarse = Control("cc", control.channel, control.number - LEAST_OF_LSB)
        binding = self._map.bindings.get(coarse)
        if binding and binding.way == "14-bit":
            high = round(self._held.get(coarse, 0.0) * 127)
            self._move(coarse, (high * 128 + message.value) / 16383, keep=False)
            return
        binding = self._map.bindings.get(control)
        if binding is None:
            return
        if binding.way in RELATIVE:
            self._ask(binding, steps_of(binding.way, message.value))
        elif binding.way == "14-bit":
            self._held[control] = message.value / 127
            self._move(control, message.value * 128 / 16383, keep=False)
        else:
            self._move(control, message.value / 127)

    def _refine(self, control: Control, value: int) -> bool:
        """Find out how a control that is learned counts; True: this message tells no value yet."""
        with self._lock:
            if self._learning and control.number < 120:  # those above are no controls
                name, self._learning, self._new = self._learning, "", (control, [])
            elif self._new is None:
                return False
            else:
                name = ""
        learned, seen = self._new
        if name:
            self._keep(control, Binding(name))
        binding = self._map.bindings[learned]
        if control.number == learned.number + LEAST_OF_LSB and control.channel == learned.channel:
            self._new = None
            self._keep(learned, Binding(binding.moves, "14-bit"))
            return False
        if control != learned:
            self._new = None
            return False
        seen.append(value)
        if len(seen) > 3:
            self._new = None
            return False
        way = way_of(seen)
        if way in RELATIVE:
            self._new = None
            self._keep(learned, Binding(binding.moves, way))
        return way is None

    def _hit(self, control: Control, hit: float) -> None:
        """Take a note or a program change; programs 1 to 9 are prompts unless they are bound."""
        if hit:
            self._bind(control)
        binding = self._map.bindings.get(control)
        if binding is not None:
            self._ask(binding, hit, button=True)
        elif control.kind == "program" and control.number < len(PROMPT_EVENTS):
            self._controls.offer(PROMPT_EVENTS[control.number], ORIGIN)

    def _bind(self, control: Control) -> None:
        """Bind a control if one is to be learned."""
        with self._lock:
            name, self._learning = self._learning, ""
        if name:
            self._keep(control, Binding(name))

    def _move(self, control: Control, value: float, keep: bool = True) -> None:
        """Take a knob's value, 0 to 1; as a button it counts once it is beyond its middle."""
        binding = self._map.bindings.get(control)
        before = self._held.get(control, 0.0)
        if keep:
            self._held[control] = value
        if binding is None or (binding.event and not before < 0.5 <= value):
            return
        self._ask(binding, value)

    def _ask(self, binding: Binding, value: float, button: bool = False) -> None:
        change = change_of(binding, value, self._controls.values, button)
        if change is not None:
            self._controls.offer(change, ORIGIN, partial(self._answer, change))

    def _answer(self, change: object, why: str) -> None:
        if why:
            self._controls.say(f"MIDI: {why}")

    def _keep(self, control: Control, binding: Binding) -> None:
        try:
            self._map.learn(control, binding)
        except (SdxsError, OSError) as error:
            self._controls.say(f"MIDI: the map could not be kept: {error}")
        else:
            self._controls.say(f"{control} moves {binding.moves}")
