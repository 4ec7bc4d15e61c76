"""Which control of a MIDI device moves what: a map that is learned, kept as JSON, and read again.

A knob of 7 or 14 bits sweeps a range; an encoder without ends sends steps; notes and program
changes are buttons. No package is needed here; `midi.py` has the device.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from ...errors import UsageError, in_a_line, reason
from ...files import write_whole
from ...live.parameters import (
    PLACES,
    TABLE,
    Change,
    Event,
    LiveParameters,
    Set,
    Step,
    last_place,
)
from ...settings import Setting
from .reading import read_event

SCHEMA = 1
MOST_BYTES = 1_000_000
SWEEP = 127.0  # of a parameter without an end, by a knob; an encoder's whole round is about as much
Kind = Literal["cc", "note", "program", "bend"]
Way = Literal["absolute", "14-bit", "relative", "offset"]
RELATIVE = ("relative", "offset")
FEW = 4  # steps that an encoder sends at most while it is turned slowly
LEAST_OF_LSB = 32  # control 32 + n has the fine half of control n, n < 32


@dataclass(frozen=True, slots=True)
class Control:
    """One control of a device. channel: 1 to 16. number: of the control, note or program."""

    kind: Kind
    channel: int
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number} on channel {self.channel}"


@dataclass(frozen=True, slots=True)
class Binding:
    """What a control moves, a parameter or an event by name, and how it counts."""

    moves: str
    way: Way = "absolute"

    @property
    def event(self) -> Event | None:
        """The event that it is, unless it is a parameter."""
        return None if self.moves in TABLE else read_event(self.moves)


def change_of(
    binding: Binding, value: float, values: LiveParameters, button: bool = False
) -> Change | None:
    """Return what a control asks for.

    value: 0 to 1 of a knob; of an encoder the steps; of a button how hard it is hit, 0 let go.
    values: of the session now. None for a button let go, and an encoder that stands.
    """
    if binding.event is not None:
        return binding.event if value > 0 else None
    row = TABLE[binding.moves]
    if binding.way in RELATIVE:
        low, high = _ends(row, values)
        step = 1.0 if row.kind is int or row.choices or row.kind is bool else (high - low) / SWEEP
        return Step(row.name, value * step) if value else None
    if button and (row.kind is bool or row.choices):
        return Step(row.name, 1) if value > 0 else None
    if button and value == 0:
        return None
    if row.kind is bool:
        return Set(row.name, value >= 0.5)
    if row.choices:
        return Set(row.name, row.choices[min(int(value * len(row.choices)), len(row.choices) - 1)])
    low, high = _ends(row, values)
    reached = low + (high - low) * value
    return Set(row.name, round(reached) if row.kind is int else round(reached, 6))


def steps_of(way: Way, value: int) -> int:
    """Return the steps of an encoder's message of 0 to 127; below 0 they are to the left.

    offset: 64 stands, 65 is one to the right. relative: 1 is; one to the left is 127 in two's
    complement and 65 where bit 6 is a sign, which are told apart by what is likely.
    """
    if way == "offset":
        return value - 64
    if value < 64:
        return value
    return value - 128 if value > 96 else 64 - value


def way_of(seen: Sequence[int]) -> Way | None:
    """Return how a control counts, by its first messages; None: three are needed to tell.

    An encoder that is turned to the right repeats a few small steps, a knob goes on.
    """
    ways: tuple[tuple[Way, int], ...] = (("relative", 0), ("offset", 64))
    for way, middle in ways:
        if all(middle < each <= middle + FEW for each in seen):
            if len(seen) < 3:
                return None
            if len(set(seen[:3])) < 3:
                return way
    return "absolute"


def learnable(name: str) -> bool:
    """Tell whether a control can move a parameter or event: texts cannot be turned."""
    row = TABLE.get(name)
    return row is None or (not row.at_start and (row.kind is not str or bool(row.choices)))


class MidiMap:
    """Bindings by control, and the file that keeps them."""

    def __init__(self, path: Path) -> None:
        """Read the file if there is one. Raises UsageError, which names the entry that is wrong."""
        self.path = path
        self.bindings: dict[Control, Binding] = {}
        if path.exists():
            self._read()

    def learn(self, control: Control, binding: Binding) -> None:
        """Bind a control, anew if it was bound, and keep the map. Raises SinkError."""
        self.bindings[control] = binding
        entries = [asdict(one) | asdict(other) for one, other in self.bindings.items()]
        text = json.dumps({"schema": SCHEMA, "controls": entries}, indent=1)
        self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, (text + "\n").encode())

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                stored = json.loads(file.read(MOST_BYTES))
            entries = stored["controls"] if stored["schema"] == SCHEMA else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            said = reason(error) if isinstance(error, OSError) else "is no map of MIDI controls"
            raise UsageError(f"--midi-map {self.path}: {said}; {_REMEDY}") from None
        if not isinstance(entries, list):
            raise UsageError(f"--midi-map {self.path}: is of another version; {_REMEDY}")
        for number, entry in enumerate(entries, 1):
            try:
                control, binding = _checked(entry)
            except UsageError as error:
                where = f"--midi-map {self.path}, control {number}"
                raise UsageError(f"{where}: {error}") from None
            self.bindings[control] = binding


_REMEDY = "name another file, or remove it and learn again"


def _checked(entry: object) -> tuple[Control, Binding]:
    if not isinstance(entry, dict) or set(entry) != {"kind", "channel", "number", "moves", "way"}:
        raise UsageError("expected kind, channel, number, moves and way")
    kind, way, moves = entry["kind"], entry["way"], entry["moves"]
    channel, number = entry["channel"], entry["number"]
    if kind not in get_args(Kind) or way not in get_args(Way):
        raise UsageError(
            f"{in_a_line(kind)} {in_a_line(way)}: expected one of {', '.join(get_args(Kind))} and "
            f"of {', '.join(get_args(Way))}"
        )
    if type(channel) is not int or type(number) is not int:
        raise UsageError("channel and number: expected whole numbers")
    if not (1 <= channel <= 16 and 0 <= number <= 127):
        raise UsageError(f"channel {channel}, number {number}: expected 1 to 16 and 0 to 127")
    if not isinstance(moves, str) or not learnable(moves):
        raise UsageError(f"{in_a_line(moves)}: expected a parameter that is no text, or an event")
    binding = Binding(moves, way)
    _ = binding.event  # which knows its name
    return Control(kind, channel, number), binding


def _ends(row: Setting, values: LiveParameters) -> tuple[float, float]:
    low = 0.0 if row.minimum is None else row.minimum
    if row.name in PLACES:
        return low, float(last_place(values, row.name))
    return low, low + SWEEP if row.maximum is None else row.maximum
