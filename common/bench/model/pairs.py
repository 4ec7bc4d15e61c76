"""What a report says of two backends: the ratio of their times, and both running at once."""

from dataclasses import dataclass

from .statistics import Interval


@dataclass(slots=True)
class Ratio:
    """The frame time of `first` over that of `second`; `refused` says why there is none.

    terms: of the first and the second, in words; empty where they are the same or not known.
    """

    first: str
    second: str
    ratio: Interval | None
    refused: str = ""
    terms: tuple[str, str] = ("", "")

    @property
    def names(self) -> tuple[str, str]:
        """The two labels, each with its terms where these differ."""
        first, second = (
            f"{label} ({terms})" if terms else label
            for label, terms in zip((self.first, self.second), self.terms, strict=True)
        )
        return first, second


@dataclass(slots=True)
class Together:
    """Two backends running at once, against each alone just before. Rates in frames a second."""

    labels: list[str]
    alone_fps: list[float]
    together_fps: list[float]
    footprint_bytes: list[int]
