"""Read what a protocol carries, texts and plain numbers, as changes of the table's own types."""

import math

from ...errors import UsageError, in_a_line
from ...live.parameters import TABLE, Change, Cue, Event, Set, Step, row_of
from ...settings import Setting

EVENTS = {each.value.replace(" ", "_"): each for each in Event}  # 'next_prompt', as names are


def read_set(name: str, value: object, over_s: object = 0.0) -> Set:
    """Return a Set with the value as the table has it, of a text or of any number.

    Controllers send 1.0 for a switch and 7.0 for a seed. Only the type is settled here; `apply`
    checks the range. Raises UsageError.
    """
    glide = _number(f"{name}: seconds to glide", over_s)
    row = row_of(name)
    if isinstance(value, str):
        return Set(name, row.parse(value, name), glide)
    return Set(name, _plain(row, value), glide)


def read_step(name: str, delta: object) -> Step:
    """Return a Step by a text or a number. Raises UsageError."""
    return Step(row_of(name).name, _number(f"{name}: a step", delta))


def read_event(name: str) -> Event:
    """Return the event of a name such as 'next prompt' or 'next_prompt'. Raises UsageError."""
    event = EVENTS.get(name.strip().lower().replace(" ", "_"))
    if event is None:
        raise UsageError(f"unknown event {in_a_line(name)!r}; known are {', '.join(EVENTS)}")
    return event


def read_change(name: str, *values: object) -> Change | None:
    """Return what a message asks for: a parameter or an event by name, and what comes with it.

    'blend' with 0.5, or with 0.5 and 2, the seconds to glide; 'step' with 'blend' and 0.1; 'cue'
    with its name; 'snapshot' with nothing. None of an event with the one value 0, which is a button
    let go. Raises UsageError.
    """
    if name in TABLE and len(values) in (1, 2):
        return read_set(name, *values)
    if name in TABLE and (values or name not in EVENTS):  # 'edges' is both
        raise UsageError(
            f"{name}: {len(values)} values; expected {TABLE[name].expected}, and perhaps the "
            "seconds to glide"
        )
    if name == "step" and len(values) == 2:
        return read_step(str(values[0]), values[1])
    if name == "cue" and len(values) == 1:
        return Cue(str(values[0]))
    if name in ("step", "cue"):
        expected = "a parameter and a number" if name == "step" else "the name of a cue"
        raise UsageError(f"{name}: {len(values)} values; expected {expected}")
    if name not in EVENTS:
        raise UsageError(
            f"unknown parameter {in_a_line(name)!r}; known are {', '.join(TABLE)}, step, cue and "
            f"the events {', '.join(EVENTS)}"
        )
    if len(values) > 1 or not all(isinstance(each, bool | int | float) for each in values):
        raise UsageError(f"{name}: is an event; expected no value, or 1 of a button")
    return EVENTS[name] if all(values) else None


def _plain(row: Setting, value: object) -> object:
    """Return a number as the kind that the row has, where it is one of that kind."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if row.kind is bool and value in (0, 1):
        return bool(value)
    if row.kind is int and math.isfinite(value) and value == int(value):
        return int(value)
    return value


def _number(what: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{what} of {in_a_line(value)}; expected a finite number")
    return number
