"""Energy and starts of a backend as `sdxs bench --submit` passes them on: figures, and plain words.

A channel that was not read, and a start that failed, are left out: why is a text of an error.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from . import public
from .energy import Energy
from .start import COLD, KEPT, Starts, middle

MOST_CHANNELS, MOST_PHASES = 32, 32


@dataclass(slots=True)
class Drawn:
    """One channel's energy for a frame; see `energy.EnergyChannel`."""

    channel: str
    source: str
    watts: float
    joules: float
    idle_watts: float | None = None
    net_joules: float | None = None


@dataclass(slots=True)
class EnergyUse:
    """The windows, and every channel that was read; see `energy.Energy`."""

    seconds: float
    frames: int
    idle_s: float
    channels: list[Drawn]


@dataclass(slots=True)
class StartsOfKind:
    """The starts of one kind: phases and steady_ms are those of the one with the median time.

    resident: the largest share of the weights' files in the page cache before one of them.
    """

    kind: str
    number: int
    whole_ms: float
    fastest_ms: float
    slowest_ms: float
    phases_ms: dict[str, float]
    steady_ms: float
    resident: float | None = None


@dataclass(slots=True)
class StartUps:
    """Starts by kind, and what was emptied before a cold one, in words."""

    page_cache: str
    compile_cache: str
    kinds: list[StartsOfKind]

    def of(self, kind: str) -> StartsOfKind | None:
        """Return the starts of a kind, if there were any."""
        return next((each for each in self.kinds if each.kind == kind), None)


def energy_use(energy: Energy | None, names: Iterable[str]) -> EnergyUse | None:
    """Take from the energy of a backend what others may see; None where nothing was read."""
    names = frozenset(names)
    channels = [
        Drawn(
            each.channel,
            public.shown(each.source, names),
            each.watts,
            each.joules,
            each.idle_watts,
            each.net_joules,
        )
        for each in (energy.channels if energy else ())
        if each.watts is not None
        and each.joules is not None
        and public.shown(each.channel, names) == each.channel
    ]
    if energy is None or not channels:
        return None
    return EnergyUse(energy.seconds, energy.frames, energy.idle_s, channels[:MOST_CHANNELS])


def start_ups(starts: Starts | None, names: Iterable[str]) -> StartUps | None:
    """Take from the starts of a backend what others may see; None where none succeeded."""
    names = frozenset(names)
    kinds = []
    for kind in (COLD, KEPT):
        of_kind = starts.of(kind) if starts else []
        if not of_kind:
            continue
        chosen, whole = middle(of_kind), [each.whole_ms for each in of_kind]
        phases = {n: took for n, took in chosen.phases_ms.items() if public.shown(n, names) == n}
        seen = [each.resident for each in of_kind if each.resident is not None]
        kinds.append(
            StartsOfKind(
                kind,
                len(of_kind),
                chosen.whole_ms,
                min(whole),
                max(whole),
                phases,
                chosen.steady_ms,
                max(seen, default=None),
            )
        )
    if starts is None or not kinds:
        return None
    page_cache = public.shown(starts.page_cache, names)
    return StartUps(page_cache, public.shown(starts.compile_cache, names), kinds)


def is_plain(energy: EnergyUse | None, starts: StartUps | None) -> bool:
    """Tell whether both hold only texts and numbers of things as this module writes them."""
    of_energy = energy.channels if energy else []
    of_starts = starts.kinds if starts else []
    return (
        all(map(public.is_text, _texts(energy, starts)))
        and len(of_energy) <= MOST_CHANNELS
        and [each.kind for each in of_starts] in ([], [COLD], [KEPT], [COLD, KEPT])
        and all(each.number > 0 and len(each.phases_ms) <= MOST_PHASES for each in of_starts)
    )


def _texts(energy: EnergyUse | None, starts: StartUps | None) -> Iterator[str]:
    for channel in energy.channels if energy else ():
        yield from (channel.channel, channel.source)
    if starts:
        yield from (starts.page_cache, starts.compile_cache)
        for each in starts.kinds:
            yield from each.phases_ms
