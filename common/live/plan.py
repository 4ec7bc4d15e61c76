"""What a schedule changes with which frame of a file, where every frame is rendered.

The capture thread asks for each frame in order, by the frame's own time. What changes travels with
the frame, and every thread obeys it at that frame: twice the same film is twice the same picture.
"""

from dataclasses import dataclass
from typing import Protocol

from ..io.inputs.player import Player
from ..io.inputs.schedule import BEATS, Schedule
from .parameters import PLACES, Event, LiveParameters, Set, apply

# What depends on a clock or on other inputs, or would stop the film's own time.
NOT_IN_FILMS = {
    "pause": "pause: would stop the film that its time is taken from; drop the line, or add "
    "--realtime",
    **{
        each.value: f"{each.value}: happens at no exact frame; set the value itself, or add "
        "--realtime"
        for each in Event
        if each not in (Event.SNAPSHOT, Event.RECORD, Event.QUIT)
    },
}


@dataclass(frozen=True, slots=True)
class Planned:
    """What changes with one frame: the values that `names` have from then on, and events.

    base: the values without what sound adds, where it adds anything.
    """

    values: LiveParameters
    names: frozenset[str]
    events: tuple[Event, ...] = ()
    base: LiveParameters | None = None


class Plan(Protocol):
    """Anything that knows what changes with a frame."""

    def at(self, frame_s: float) -> Planned | None:
        """Return what changes with the frame of a time, in order of the frames; None: nothing."""


class FilmPlan:
    """A schedule by the time of a film's frames. One thread."""

    def __init__(self, schedule: Schedule, values: LiveParameters, bpm: float) -> None:
        """values: of the start. bpm: beats a minute, of a schedule in beats."""
        self._player = Player(schedule)
        self._values = values
        self._unit_s = 60 / bpm if schedule.unit == BEATS else 1.0

    def at(self, frame_s: float) -> Planned | None:
        due = self._player.advance(frame_s / self._unit_s, self._values, self._unit_s)
        if not due:
            return None
        names: set[str] = set()
        for change in due:
            if isinstance(change, Set):
                self._values = apply(self._values, change)
                names |= {change.name} | (set(PLACES) if change.name == "prompt" else set())
        events = tuple(each for each in due if isinstance(each, Event))
        return Planned(self._values, frozenset(names), events)
