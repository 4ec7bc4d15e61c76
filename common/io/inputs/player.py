"""Play a schedule: what is due at a time, in its own unit, with glides, loops and jumps.

A player asks no clock. The same times give the same changes, at any rate of frames.
"""

from ...errors import UsageError, in_a_line
from ...live.glides import Glide
from ...live.parameters import PLACES, Event, LiveParameters, Set
from .schedule import Entry, Schedule

_NEAR = 1e-9  # of the schedule's unit; the sum of many frames is a little less than it should be
RESTART_WITHIN = 1.0  # of its unit: PREVIOUS_CUE goes to the start of the cue until then


class Player:
    """Plays one schedule. Not thread-safe: one thread calls everything."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._offset = 0.0  # the time at which its 0 is
        self._next = 0
        self._glides: dict[str, Glide] = {}
        self._jump: float | None = None
        self._position = 0.0

    @property
    def position(self) -> float:
        """Where it is, in its unit."""
        return self._position

    def advance(
        self, now: float, values: LiveParameters, seconds_a_unit: float = 1.0
    ) -> list[Set | Event]:
        """Return what is due at `now`, which never decreases, in order.

        now: in the schedule's unit since the session's beginning. values: where glides begin.
        seconds_a_unit: turns beats into the seconds that prompts take.
        """
        found: list[Set | Event] = []
        there: dict[str, object] = {}  # what this call has set, which `values` do not know
        if self._jump is not None:
            found += self._chase(self._jump, there, values)
            self._offset, self._jump = now - self._jump, None
        position, loop_at = now - self._offset, self.schedule.loop_at
        while loop_at is not None and position >= loop_at - _NEAR:
            found += self._fire(loop_at, there, values, seconds_a_unit)
            found += self._glided(loop_at)
            self._offset += loop_at
            self._next, self._glides = 0, {}
            position = now - self._offset
            if position >= loop_at - _NEAR:  # it was not asked for whole rounds; leave them out
                self._offset += loop_at * (position // loop_at)
                position = now - self._offset
        found += self._fire(position, there, values, seconds_a_unit)
        self._position = position
        return found + self._glided(position)

    def forget(self, name: str) -> None:
        """Let go of a parameter that something else has moved, until the schedule sets it again."""
        self._glides.pop(name, None)

    def restart(self) -> None:
        """Begin again at the next `advance`."""
        self._jump = 0.0

    def go_to(self, cue: str) -> None:
        """Jump to a cue at the next `advance`. Raises UsageError, which lists the cues."""
        if cue not in self.schedule.cues:
            raise UsageError(
                f"unknown cue {in_a_line(cue)!r}; {self.schedule.name} has "
                f"{', '.join(self.schedule.cues) or 'none'}"
            )
        self._jump = self.schedule.cues[cue]

    def step(self, direction: int) -> None:
        """Jump to the next cue, or to the one before; there is none: to the end ones stay.

        Back leads to the start of the present cue first, as on a player of music.
        """
        places = sorted({0.0, *self.schedule.cues.values()})
        here = self._position if self._jump is None else self._jump
        if direction > 0:
            later = [each for each in places if each > here + _NEAR]
            self._jump = later[0] if later else self._jump
        else:
            earlier = [each for each in places if each < here - RESTART_WITHIN]
            self._jump = earlier[-1] if earlier else 0.0

    def _fire(
        self,
        position: float,
        there: dict[str, object],
        values: LiveParameters,
        seconds_a_unit: float,
    ) -> list[Set | Event]:
        """Return the lines up to a position that have not been played."""
        found: list[Set | Event] = []
        entries = self.schedule.entries
        while self._next < len(entries) and entries[self._next].at <= position + _NEAR:
            entry = entries[self._next]
            self._next += 1
            if isinstance(entry.change, Event):
                found += [*self._glided(entry.at), entry.change]
                continue
            found += self._begin(entry, there, values, seconds_a_unit)
        return found

    def _begin(
        self,
        entry: Entry,
        there: dict[str, object],
        values: LiveParameters,
        seconds_a_unit: float,
    ) -> list[Set]:
        assert isinstance(entry.change, Set)
        name, value = entry.change.name, entry.change.value
        if name == "prompt":
            for place in PLACES:
                self._glides.pop(place, None)
                there[place] = 0.0
            turns = self.schedule.turns_prompts
            over_s = min(entry.over * seconds_a_unit, 3600.0)
            return [*([Set("transition", over_s)] if turns else []), entry.change]
        before = self._glides.pop(name, None)
        if not entry.over:
            there[name] = value
            return [entry.change]
        start = before.at(entry.at) if before else there.get(name, getattr(values, name))
        self._glides[name] = _glide(start, entry)
        return []

    def _glided(self, position: float) -> list[Set]:
        """Return where the glides are; those that have arrived end."""
        found = [Set(name, glide.at(position + _NEAR)) for name, glide in self._glides.items()]
        self._glides = {
            name: glide
            for name, glide in self._glides.items()
            if position + _NEAR < glide.began_s + glide.over_s
        }
        return found

    def _chase(
        self, position: float, there: dict[str, object], values: LiveParameters
    ) -> list[Set | Event]:
        """Return what is so at a position: the last value of each parameter before it."""
        self._next, self._glides = 0, {}
        last: dict[str, Set] = {}
        entries = self.schedule.entries
        while self._next < len(entries) and entries[self._next].at < position - _NEAR:
            entry = entries[self._next]
            self._next += 1
            if isinstance(entry.change, Event):
                continue  # a snapshot of then is not taken now
            name = entry.change.name
            last.pop(name, None)
            if name == "prompt":
                for place in PLACES:
                    last.pop(place, None)
                    self._glides.pop(place, None)
            before = self._glides.pop(name, None)
            if entry.over and name != "prompt" and entry.at + entry.over > position:
                start = before.at(entry.at) if before else there.get(name, getattr(values, name))
                self._glides[name] = _glide(start, entry)
            else:
                last[name] = entry.change
            there[name] = entry.change.value
        turns = [Set("transition", 0.0)] if self.schedule.turns_prompts and "prompt" in last else []
        return [*turns, *last.values()]


def _glide(start: object, entry: Entry) -> Glide:
    assert isinstance(entry.change, Set)
    end = entry.change.value
    assert isinstance(start, int | float) and isinstance(end, int | float)
    return Glide(float(start), float(end), entry.at, entry.over)
