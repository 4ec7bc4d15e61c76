"""A video, whose frames carry their own time."""

import math
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...backend import copies
from ...errors import SdxsWarning, SourceError, SourceLost
from ...picture.still import BACKGROUND, colour_of, why_not_a_file
from ..films.plan import Film, Sound
from ..films.reader import FilmReader
from .place import is_live

ROUNDED_S = 0.0012  # that an interval may be off: containers round time stamps to milliseconds
TAKES = "--source takes a camera number, a video, an image or 'synthetic'"
SLOWEST_FPS, FASTEST_FPS = 1.0, 240.0


class VideoFile:
    """Every frame of a video, once or over and over: a file, a stream, a pipe.

    fps: of a film with regular time stamps what its container says, otherwise that of its usual
    interval. length: None where the container cannot be believed. stamp_s: the time of the last
    frame that `read` returned, in seconds from the first; it goes on growing where the film begins
    again. sound: its codec, or ''. again: it can be read more than once.
    """

    def __init__(
        self, place: Path | str, name: str = "", repeat: bool = False, background: str = BACKGROUND
    ) -> None:
        """Open the video. Raises SourceError if it cannot be read.

        place: a file's path, or what else FFmpeg opens.
        """
        obstacle = why_not_a_file(place) if isinstance(place, Path) else ""
        if obstacle:
            raise SourceError(f"{place}: {obstacle}; {TAKES}")
        self.name = name or Path(place).name
        self._place = str(place)
        shown = self._place if isinstance(place, Path) else self.name
        self.paced = not is_live(self._place)
        film = Film(self._place, shown, colour_of(background), live=not self.paced)
        self._reader = FilmReader(film)
        facts = self._reader.facts
        self.again = facts.again
        self._repeat = repeat and self.again
        self.sound = facts.sound
        self._regular = is_regular(facts.rate, facts.intervals_s, facts.damaged)
        self.fps = facts.rate if self._regular else usual_fps(facts.rate, facts.intervals_s)
        known = self._regular and self.paced
        self.length = (facts.count or round(facts.duration_s * self.fps) or None) if known else None
        self.stamp_s = 0.0
        self._began_s = 0.0  # of this pass
        self._zero_s: float | None = None
        self._period_s: float | None = None
        self._lost = 0
        for note in facts.notes:
            warnings.warn(f"{self.name}: {note}", SdxsWarning, stacklevel=2)

    def read(self) -> np.ndarray | None:
        """Return the next picture, valid until the next call. Raises SourceLost."""
        found = self._reader.read()
        if found is None:
            self._warn_of_loss()
            if not self._repeat:
                return None
            self._reader.rewind()
            self._period_s = self._period_s or self.stamp_s - self._began_s + 1 / self.fps
            found = self._reader.read()
            if found is None:
                raise SourceLost(
                    f"{self.name}: could be read once and no more; was the file removed?"
                )
            self._began_s = self.stamp_s = self.stamp_s + 1 / self.fps
            picture = found[0]
        else:
            picture, stamp_s = found
            if self._zero_s is None:
                self._zero_s = max(0.0, stamp_s)
            else:
                self._note_time(self._began_s + max(0.0, stamp_s - self._zero_s))
        copies.count("source", picture.nbytes)
        return picture

    def close(self) -> None:
        self._reader.close()

    def heard(self) -> Sound | None:
        """Return where the sound of what was read is, or None if there is none."""
        if not (self.sound and self.again):
            return None
        return Sound(self._place, self.sound, self._zero_s or 0.0, self._period_s)

    def _note_time(self, stamp_s: float) -> None:
        passed = stamp_s - self.stamp_s
        if passed <= 0:  # a container without time stamps, or a damaged one
            stamp_s = self.stamp_s + 1 / self.fps
        elif self._regular:
            self._lost += max(0, round(passed * self.fps) - 1)
        self.stamp_s = stamp_s

    def _warn_of_loss(self) -> None:
        """Warn, at the end of a pass, of frames that could not be decoded or are cut off."""
        found = []
        if self._reader.errors:
            many = f"{self._lost} of its frames are damaged and were left out"
            found.append(many if self._lost else "it is damaged, and frames may be missing")
        if self._reader.cut_off:
            shown_s = self.stamp_s - self._began_s + 1 / self.fps
            whole = f" of {self.length / self.fps:.2f} s" if self.length else ""
            found.append(f"it is cut off at {shown_s:.2f} s{whole}")
        if found:
            warnings.warn(f"{self.name}: {', and '.join(found)}", SdxsWarning, stacklevel=2)
        self._lost = 0


def is_regular(fps: float, intervals_s: Sequence[float], damaged: bool = False) -> bool:
    """Tell whether a rate in frames a second agrees with time stamps.

    damaged: frames may be missing, so that an interval may be several.
    """
    if not math.isfinite(fps) or not SLOWEST_FPS <= fps <= FASTEST_FPS:
        return False
    near = 0.02 + ROUNDED_S * fps  # of whole intervals
    frames = [each * fps for each in intervals_s]
    return all(
        each > 0 and abs(each - (max(1, round(each)) if damaged else 1)) < near for each in frames
    )


def usual_fps(fps: float, intervals_s: Sequence[float]) -> float:
    """Return the rate of the usual interval; without time stamps, a likely `fps`, or 30."""
    positive = [each for each in intervals_s if each > 0]
    if positive:
        return min(FASTEST_FPS, max(SLOWEST_FPS, 1 / statistics.median(positive)))
    return fps if math.isfinite(fps) and SLOWEST_FPS <= fps <= FASTEST_FPS else 30.0
