"""Sound moves parameters: `blend=low:0.2..0.8` adds 0.2 in silence and 0.8 at the loudest bass.

What keys, pages, controllers and schedules set is the base, and all of them see only that. What
sound adds to it is in force, and never becomes a value that somebody has set. Sums end where the
range of a parameter ends, as `Step` has it: a switch is turned over, a choice goes on.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SdxsWarning, UsageError, in_a_line
from ..io.sound.bands import NAMES, Ear, EarLost
from ..io.sound.follower import Follower, Response
from .parameters import PLACES, TABLE, LiveParameters, Step, apply, row_of
from .plan import FilmPlan, Planned

if TYPE_CHECKING:
    from ..io.inputs.controls import Controls

DECIMALS = 3  # of what is added: finer steps are heard by nobody, and each is a change
STAYS = 0.6  # of a step that a switch, a choice or a whole number needs to move; it has moved by 1
_ROUTE = re.compile(r"\s*(\w+)\s*=\s*(\w+)\s*:(.+?)\.\.(.+)")
EXPECTED = "NAME=BAND:LOW..HIGH, such as blend=low:0.2..0.8"


@dataclass(frozen=True, slots=True)
class Route:
    """One band that moves one parameter. low, high: what it adds in silence, and at the loudest."""

    name: str
    band: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name}={self.band}:{self.low:g}..{self.high:g}"


def read_route(text: str) -> Route:
    """Return what one `--audio-to` says. Raises UsageError."""
    found = _ROUTE.fullmatch(text)
    if found is None:
        raise UsageError(f"--audio-to {in_a_line(text)}: expected {EXPECTED}")
    name, band = found[1], found[2]
    try:
        low, high = float(found[3]), float(found[4])
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"--audio-to {in_a_line(text)}: expected numbers, as in {EXPECTED}")
    if band not in NAMES:
        raise UsageError(f"--audio-to {text}: unknown band {band!r}; known are {', '.join(NAMES)}")
    try:
        row = row_of(name)
        if row.kind is str and not row.choices:
            raise UsageError(f"{name}: is a text, which no sound can move; a bank has a position")
        apply(LiveParameters(), Step(name, high))
    except UsageError as error:
        raise UsageError(f"--audio-to {text}: {error}") from None
    return Route(name, band, low, high)


class Modulation:
    """Hears, and says what is in force. See `Input`; one thread calls everything."""

    def __init__(
        self, routes: Sequence[Route], ear: Ear, response: Response, by_film: bool = False
    ) -> None:
        """by_film: frames tell their own time, and a file of sound goes by it."""
        self.names = tuple(dict.fromkeys(each.name for each in routes))
        self._routes, self._ear, self._by_film = routes, ear, by_film
        self._follower = Follower(response)
        self._film_s: float | None = None
        self._began_s: float | None = None
        self._steps: dict[str, int] = {}
        self._lost = False
        self._complained = ""
        self._controls: Controls | None = None

    def start(self, controls: "Controls") -> None:
        self._controls = controls
        self._ear.start()

    def close(self) -> None:
        self._ear.close()

    def saw(self, source_ns: int | None) -> None:
        """Note the time of a frame that is shown; a file of sound begins with the first."""
        self._film_s = 0.0 if source_ns is None else source_ns / 1e9

    def listen(self, now_s: float) -> None:
        """Hear what is new. now_s: on any clock."""
        if not self._ear.is_live and self._film_s is None:
            return
        if self._began_s is None:
            self._began_s = now_s
        self.hear(self._film_s or 0.0 if self._by_film else now_s - self._began_s)

    def hear(self, at_s: float) -> None:
        """Hear on to a time of the sound. A device that is gone is warned of once."""
        if self._lost:
            return
        try:
            self._follower.follow(self._ear.hear(at_s))
        except EarLost as error:
            self._lost = True
            self._warn(f"{error}; {', '.join(self.names)} go on as they are set, without it")
            return
        said = self._ear.complaint()
        if said and said != self._complained:
            self._complained = said
            self._warn(said)

    def of(self, values: LiveParameters) -> LiveParameters:
        """Return what is in force, of the values that are set."""
        if self._lost:
            return values
        for name in self.names:
            added = sum(self._added(each) for each in self._routes if each.name == name)
            delta = round(added, DECIMALS)
            if TABLE[name].kind is not float:
                delta = self._whole(name, added)
            if delta:
                values = apply(values, Step(name, delta))
        return values

    def _added(self, route: Route) -> float:
        return route.low + (route.high - route.low) * self._follower.value(route.band)

    def _whole(self, name: str, added: float) -> int:
        """Return whole steps, which stay where they are until it is clear that they move."""
        step = self._steps.get(name, 0)
        if abs(added - step) > STAYS:
            step = self._steps[name] = round(added)
        return step

    def _warn(self, text: str) -> None:
        warnings.warn(text, SdxsWarning, stacklevel=2)
        if self._controls is not None:
            self._controls.say(text)


class HeardPlan:
    """A film's plan, with its sound: what is in force with each frame. One thread. See `Plan`."""

    def __init__(
        self, modulation: Modulation, values: LiveParameters, plan: FilmPlan | None
    ) -> None:
        """values: of the start. plan: of a schedule, which sets the base."""
        self._modulation, self._base, self._plan = modulation, values, plan
        self._in_force = values

    def at(self, frame_s: float) -> Planned | None:
        planned = self._plan.at(frame_s) if self._plan else None
        names = planned.names if planned else frozenset[str]()
        self._base = planned.values if planned else self._base
        self._modulation.hear(frame_s)
        before, self._in_force = self._in_force, self._modulation.of(self._base)
        # a value that another input has set meanwhile is none of the film's
        always = (name for name in self._modulation.names if name not in PLACES)
        moved = {n for n in PLACES if getattr(before, n) != getattr(self._in_force, n)}
        events = planned.events if planned else ()
        return Planned(self._in_force, names | moved | {*always}, events, self._base)


def check_routes(
    routes: Sequence[Route],
    values: LiveParameters,
    unusable: Mapping[str, str],
    takes_turns: bool,
    by_frame: bool,
) -> None:
    """Refuse what no sound can move in a session. Raises UsageError.

    takes_turns: prompts change by themselves. by_frame: every frame of a file is rendered.
    """
    for each in routes:
        try:
            apply(values, Step(each.name, each.high), unusable)
        except UsageError as error:
            raise UsageError(f"--audio-to {each}: {error}") from None
        if each.name in PLACES and takes_turns:
            raise UsageError(
                f"--audio-to {each}: the prompts given take turns by themselves; give one --prompt "
                "and drop --hold"
            )
        if each.name == "pause" and by_frame:
            raise UsageError(
                f"--audio-to {each}: would stop the film that its time is taken from; drop it, or "
                "add --realtime"
            )
