"""Schedules: a text file that says what changes when, a line each; see docs/live.md.

    # seconds, m:ss or beats; parameter or event; value; perhaps `over` a time
    0:00   prompt    "a pencil sketch"
    0:08   blend     0.5              over 4s
    0:16   cue       chorus
    0:32   loop

This module reads and checks a file. `player.py` plays it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ...errors import UsageError, in_a_line, reason
from ...live.parameters import TABLE, Event, LiveParameters, Set, apply
from .reading import read_event, read_set

MOST_LINES = 10_000
MOST_BYTES = 1_000_000
SECONDS, BEATS = "s", "b"
CUE, LOOP = "cue", "loop"
_TIME = re.compile(r"(?:(\d+):)?(\d+(?:\.\d+)?)(s|b)?")
_OVER = re.compile(r"(.*?)\s+over\s+(\S+)\s*", re.DOTALL)
_TIME_SAID = "a time such as 8, 8.5s or 1:02, or beats such as 16b"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: at a time, in the schedule's unit, a change. over: how long a Set takes."""

    at: float
    change: Set | Event
    over: float = 0.0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """A file that was read: its lines in the order of their times.

    unit: SECONDS or BEATS, of all times. cues: places by name. loop_at: where it begins again.
    """

    name: str
    entries: tuple[Entry, ...]
    cues: Mapping[str, float] = field(default_factory=dict)
    unit: str = SECONDS
    loop_at: float | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt that it sets, as written."""
        return tuple(str(each.change.value) for each in self.entries if _is_prompt(each))

    @property
    def names(self) -> frozenset[str]:
        """The parameters that it sets."""
        return frozenset(each.change.name for each in self.entries if isinstance(each.change, Set))

    @property
    def turns_prompts(self) -> bool:
        """Whether it says how long its prompts take, so that all of them obey it."""
        return any(each.over for each in self.entries if _is_prompt(each))

    def check(
        self, values: LiveParameters, unusable: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Try every line in turn on the values of a session's start. Raises UsageError.

        unusable: parameters and events without effect in that session, each with the reason.
        """
        wrong = []
        rounds = 1 if self.loop_at is None else 2  # the second begins where the first ends
        for each in self.entries * rounds:
            try:
                if isinstance(each.change, Set):
                    values = apply(values, each.change, unusable)
                elif each.change.value in unusable:
                    raise UsageError(unusable[each.change.value])
            except UsageError as error:
                wrong += [] if (each.line, str(error)) in wrong else [(each.line, str(error))]
        _raise_wrong(self.name, wrong)


def read_schedule(path: Path) -> Schedule:
    """Read a file and check each line by itself. Raises UsageError, which names line and reason."""
    try:
        with path.open("rb") as file:
            stored = file.read(MOST_BYTES + 1)
        text = stored.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"--schedule {path}: is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--schedule {path}: not readable ({reason(error)}); expected a text file"
        ) from None
    if len(stored) > MOST_BYTES or "\0" in text:
        raise UsageError(
            f"--schedule {path}: expected a text file of at most {MOST_BYTES // 1000} kB"
        )
    return parse_schedule(text, path.name)


def parse_schedule(text: str, name: str) -> Schedule:
    """Read the text of a schedule. Raises UsageError, which names line and reason."""
    reading = _Reading(name)
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        raise UsageError(f"{name}: {len(lines)} lines; expected {MOST_LINES} at most")
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if line and not line.startswith("#"):
            try:
                reading.take(number, line)
            except UsageError as error:
                reading.wrong.append((number, str(error)))
    return reading.finish()


class _Reading:
    def __init__(self, name: str) -> None:
        self.wrong: list[tuple[int, str]] = []
        self._name = name
        self._entries: list[Entry] = []
        self._cues: dict[str, float] = {}
        self._unit = ""
        self._loop: tuple[int, float] | None = None

    def take(self, number: int, line: str) -> None:
        at_text, _, rest = line.partition(" ")
        what, _, value = rest.replace("\t", " ").strip().partition(" ")
        if "\t" in at_text:
            return self.take(number, line.replace("\t", " ", 1))
        at, value = self._time(at_text), value.strip()
        if not what:
            raise UsageError(f"{at_text}: expected a parameter, an event, cue or loop after it")
        if what == LOOP:
            self._take_loop(number, at, value)
        elif what == CUE:
            self._take_cue(at, value)
        elif what in TABLE and (value or what != "edges"):  # which is an event, too
            self._take_set(number, at, what, value)
        else:
            if value:
                raise UsageError(f"{what}: is no parameter; {self._known()}")
            self._entries.append(Entry(at, self._event(what), 0.0, number))
        return None

    def finish(self) -> Schedule:
        if self._loop:
            number, loop_at = self._loop
            behind = [each.line for each in self._entries if each.at > loop_at]
            if behind:
                said = f"loop at {loop_at:g}: line {behind[0]} comes later and is never reached"
                self.wrong.append((number, said))
        _raise_wrong(self._name, self.wrong)
        if not self._entries:
            raise UsageError(
                f"{self._name}: changes nothing; expected lines such as '0:08 blend 0.5 over 4s'"
            )
        ordered = tuple(sorted(self._entries, key=lambda each: each.at))
        ends = self._loop[1] if self._loop else None
        return Schedule(self._name, ordered, self._cues, self._unit, ends)

    def _take_set(self, number: int, at: float, name: str, value: str) -> None:
        value, over = self._value_and_glide(value)
        if not value:
            raise UsageError(f"{name}: no value; expected {TABLE[name].expected}")
        change = read_set(name, value)
        TABLE[name].check(change.value, name)
        seconds = over if self._unit == SECONDS else min(over, 1.0)  # beats take what they take
        if over and name == "prompt":
            TABLE["transition"].check(seconds, "prompt ... over")
        elif over:
            apply(LiveParameters(), Set(name, TABLE[name].default, seconds))  # whether it glides
        self._entries.append(Entry(at, change, over, number))

    def _value_and_glide(self, text: str) -> tuple[str, float]:
        """Take off `over 4s`, and the quotes of a text."""
        quoted = re.fullmatch(r'"([^"]*)"(?:\s+over\s+(\S+))?', text)
        found = quoted or _OVER.fullmatch(text)
        if found is None:
            return text, 0.0
        return found[1].strip(), self._time(found[2]) if found[2] else 0.0

    def _take_cue(self, at: float, name: str) -> None:
        name = name.strip('"').strip()
        if not name:
            raise UsageError("cue: expected its name, such as 'cue chorus'")
        if name in self._cues:
            raise UsageError(f"cue {in_a_line(name)}: is there already; give it another name")
        self._cues[name] = at

    def _take_loop(self, number: int, at: float, value: str) -> None:
        if value:
            raise UsageError(f"loop {in_a_line(value)}: expected nothing after loop")
        if self._loop:
            raise UsageError(f"loop: is in line {self._loop[0]} already")
        if at <= 0:
            raise UsageError("loop at 0: expected a time behind the first line")
        self._loop = number, at

    def _event(self, name: str) -> Event:
        try:
            return read_event(name)
        except UsageError:
            raise UsageError(f"{in_a_line(name)}: is neither; {self._known()}") from None

    def _known(self) -> str:
        events = "an event such as snapshot or next_prompt"
        return f"expected {', '.join(TABLE)}, {events}, cue or loop"

    def _time(self, text: str) -> float:
        found = _TIME.fullmatch(text)
        if found is None or (found[1] and (found[3] == BEATS or float(found[2]) >= 60)):
            raise UsageError(f"{in_a_line(text)}: expected {_TIME_SAID}")
        unit = found[3] or SECONDS
        if self._unit and unit != self._unit:
            word = {SECONDS: "seconds", BEATS: "beats"}[self._unit]
            raise UsageError(f"{text}: the lines above are in {word}; expected {word} throughout")
        self._unit = unit
        value = 60 * int(found[1] or 0) + float(found[2])
        if not math.isfinite(value) or value > 1e6:
            raise UsageError(f"{in_a_line(text)}: expected a time of 1000000 at most")
        return value


def _is_prompt(entry: Entry) -> bool:
    return isinstance(entry.change, Set) and entry.change.name == "prompt"


def _raise_wrong(name: str, wrong: list[tuple[int, str]]) -> None:
    if not wrong:
        return
    (line, said), *others = sorted(wrong)
    numbers = ", ".join(str(number) for number, _ in others[:10])
    more = f" (also wrong: line{'s' if len(others) > 1 else ''} {numbers})" if others else ""
    raise UsageError(f"{name}, line {line}: {said}{more}")
