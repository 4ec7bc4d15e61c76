"""How long bench measures: the whole run, and the quick one. Light, for the help reads it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """The length of a run. Seconds are per turn and per memory pass; sweeps are of contention."""

    rounds: int = 8
    turns: int = 3
    turn_s: float = 0.4
    memory_s: float = 6.0
    sweeps: int = 2


WHOLE = Effort()
QUICK = Effort(rounds=3, turns=2, turn_s=0.2, memory_s=2.0, sweeps=1)
