"""What the two processes of a film tell each other before and after its pictures."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

PIPE = "pipe:0"  # standard input, as FFmpeg names it


@dataclass(frozen=True, slots=True)
class Film:
    """What to open.

    place: a path, or a URL of FFmpeg's. name: for messages, without a password. background: RGB
    behind transparent parts. live: it comes at its own pace.
    """

    place: str
    name: str
    background: tuple[int, int, int]
    live: bool = False


@dataclass(frozen=True, slots=True)
class FilmFacts:
    """What is known of a film before its first picture.

    height, width: of the pictures. rate, count: frames a second, and frames, that the container
    says; 0 if it says none. duration_s: of its pictures; 0 if that is not certain. intervals_s:
    between the first frames. damaged: some of those could not be read. sound: codec of its sound,
    or ''. again: it can be read again. notes: what was done to its pictures.
    """

    height: int
    width: int
    rate: float
    count: int
    duration_s: float
    intervals_s: tuple[float, ...]
    damaged: bool
    sound: str
    again: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FilmPlan:
    """What to write.

    name: for messages. path: the partial file. codec: '' for the container's own. fps: frames a
    second, or, of frames at their own times, of the last one's duration.
    """

    name: str
    path: Path
    codec: str
    fps: float
    height: int
    width: int

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def rate(self) -> Fraction:
        """Frames a second as FFmpeg takes them: 60000/1001."""
        return Fraction(self.fps).limit_denominator(1001)


@dataclass(frozen=True, slots=True)
class Sound:
    """Where the sound of a film is.

    zero_s: time of the first picture in its file. period_s: of one pass; None in the first one.
    """

    place: str
    codec: str
    zero_s: float
    period_s: float | None = None


def for_ffmpeg(place: Path | str) -> str:
    """Spell a path so that FFmpeg takes no part of it for a protocol; a URL stays as it is."""
    text = str(place)
    return text if "://" in text or text == PIPE else f"file:{Path(text).absolute()}"
