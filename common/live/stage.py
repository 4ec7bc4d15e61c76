"""Beat and schedule of a session that runs on a clock."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..io.inputs.player import Player
from ..io.inputs.schedule import BEATS, Schedule
from ..io.inputs.tempo import Tempo
from .modulation import Modulation
from .parameters import PROMPT_EVENTS, TABLE, Change, Cue, Event, LiveParameters, Set

SCHEDULE = "schedule"  # the origin of its changes
TEMPO = 120.0  # beats a minute, until something says another
_ON_BEAT = {Event.NEXT_PROMPT, Event.PREVIOUS_PROMPT, Event.RESTART, *PROMPT_EVENTS}


def clock_s() -> float:
    """Return the time on the clock of beats, in seconds."""
    return time.perf_counter()


class Playing:
    """A schedule that follows a clock: seconds since the first frame, a film's time, or the beat.

    Main thread only.
    """

    def __init__(self, schedule: Schedule, by_film: bool = False) -> None:
        """by_film: frames tell their own time, and `saw` hears it."""
        self.player = Player(schedule)
        self._by_film = by_film
        self._began: float | None = None
        self._film_s: float | None = None

    def saw(self, source_ns: int | None) -> None:
        """Note the time of a frame that is shown."""
        self._film_s = 0.0 if source_ns is None else source_ns / 1e9

    def due(
        self, values: LiveParameters, now_s: float, beats: float, bpm: float
    ) -> list[Set | Event]:
        """Return what is due now, in seconds and beats; nothing before the first frame."""
        if self._film_s is None:
            return []
        in_beats = self.player.schedule.unit == BEATS
        if self._by_film and not in_beats:
            return self.player.advance(self._film_s, values)
        now = beats if in_beats else now_s
        if self._began is None or now < self._began:  # or beats are counted anew
            if self._began is not None:
                self.player.restart()
            self._began = float(math.floor(now)) if in_beats else now
        return self.player.advance(now - self._began, values, 60 / bpm if in_beats else 1.0)


@dataclass(slots=True)
class Stage:
    """What a session has besides its keys and inputs.

    on_beat: beats that changes which cannot glide wait for, 0 for none. clock: of the beat.
    sound: what moves parameters by sound.
    """

    tempo: Tempo = field(default_factory=lambda: Tempo(TEMPO, clock_s()))
    on_beat: float = 0.0
    playing: Playing | None = None
    clock: Callable[[], float] = clock_s
    sound: Modulation | None = None

    @property
    def beats(self) -> float:
        """How many beats have passed."""
        return self.tempo.beats(self.clock())

    def holds(self, change: Change, origin: str) -> bool:
        """Tell whether a change is held back until a beat."""
        if not self.on_beat or origin == SCHEDULE:
            return False
        if isinstance(change, Event):
            return change in _ON_BEAT
        return isinstance(change, Cue) or not TABLE[change.name].glides
