"""Values on their way to others, in a straight line over time."""

from dataclasses import dataclass

from .parameters import DECIMALS, PLACES, Set


@dataclass(frozen=True, slots=True)
class Glide:
    """One parameter from `start` to `end`; times in seconds, on any clock."""

    start: float
    end: float
    began_s: float
    over_s: float

    def at(self, now_s: float) -> float:
        """Return the value of a moment: the end itself from its time on."""
        share = (now_s - self.began_s) / self.over_s if self.over_s else 1.0
        if share >= 1:
            return self.end
        return round(self.start + (self.end - self.start) * max(0.0, share), DECIMALS)


class Glides:
    """What glides in a session, by parameter."""

    def __init__(self) -> None:
        self._under_way: dict[str, Glide] = {}

    def begin(self, name: str, glide: Glide) -> None:
        """Begin a glide; one of the same parameter ends where it is."""
        self._under_way[name] = glide

    def forget(self, name: str) -> None:
        """End the glide of a parameter where it is; with the prompt, those of its place too."""
        for each in (name, *(PLACES if name == "prompt" else ())):
            self._under_way.pop(each, None)

    def at(self, now_s: float) -> list[Set]:
        """Return the values of a moment, and let go of the glides that have arrived."""
        found = [Set(name, glide.at(now_s)) for name, glide in self._under_way.items()]
        self._under_way = {
            name: glide
            for name, glide in self._under_way.items()
            if now_s < glide.began_s + glide.over_s
        }
        return found
