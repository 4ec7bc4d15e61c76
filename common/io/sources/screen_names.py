"""Monitors and windows by number and title, as a user names them and messages list them."""

from dataclasses import dataclass

from ...errors import SourceError, in_a_line

FPS = 30.0
MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """What follows `screen:`: the number of a monitor, from 1, or a part of a window's title."""

    monitor: int = 1
    title: str = ""

    @property
    def name(self) -> str:
        """Of the source: by what the user typed, since a whole title may tell more than that."""
        return f"window {self.title!r}" if self.title else f"screen {self.monitor}"


@dataclass(frozen=True, slots=True)
class Shown:
    """What can be captured. monitors: sizes in pixels. windows: their titles."""

    monitors: tuple[tuple[int, int], ...]
    windows: tuple[str, ...]

    @property
    def monitors_text(self) -> str:
        sizes = (f"{n} ({width}x{height})" for n, (width, height) in enumerate(self.monitors, 1))
        return f"monitors {', '.join(sizes) or 'none'}"


def read_wanted(rest: str) -> Wanted:
    """Return what a user wants to be captured."""
    text = rest.strip()
    if text.isascii() and text.isdecimal():
        return Wanted(int(text))
    return Wanted(title=text)


def no_monitor(number: int, shown: Shown) -> SourceError:
    """The refusal of a monitor that there is not."""
    return SourceError(
        f"screen:{number}: there is no such monitor; there are {shown.monitors_text}"
    )


def the_one_window(title: str, titles: list[str]) -> int:
    """Return the place of the one window whose title has a part in it.

    Capital and small letters are alike; a whole title goes before a part. Raises SourceError.
    """
    found = [at for at, each in enumerate(titles) if title.lower() in each.lower()]
    exact = [at for at, each in enumerate(titles) if each == title]
    if len(exact or found) == 1:
        return (exact or found)[0]
    named = [titles[at] for at in found] or titles
    listed = ", ".join(in_a_line(each) for each in named[:MOST_LISTED]) or "none with a title"
    listed += f" and {len(named) - MOST_LISTED} more" if len(named) > MOST_LISTED else ""
    why = "several windows have it in their titles" if found else "no window has it in its title"
    raise SourceError(f"screen:{title}: {why}; windows: {listed}; name one, or a monitor by number")
