"""What every source does: hand out uint8 (H, W, 3) BGR pictures, OpenCV's order."""

from typing import Protocol, runtime_checkable

import numpy as np

from ..films.plan import Sound


class Source(Protocol):
    """Anything that yields pictures."""

    @property
    def name(self) -> str:
        """What a user calls it, for messages."""

    @property
    def fps(self) -> float:
        """Frames a second."""

    @property
    def length(self) -> int | None:
        """Frames in one pass; None if endless."""

    @property
    def paced(self) -> bool:
        """Whether `read` returns at once, so that the loop has to keep the rate."""

    def read(self) -> np.ndarray | None:
        """Return the next picture, uint8 (H, W, 3) BGR, or None at the end. Raises SourceError."""

    def close(self) -> None:
        """Free the device or file; calling it again does nothing."""


@runtime_checkable
class TimedSource(Protocol):
    """A source whose pictures carry their own time."""

    @property
    def stamp_s(self) -> float:
        """Time of the last picture that `read` returned, in seconds from the first."""


@runtime_checkable
class SoundingSource(Protocol):
    """A source that has sound beside its pictures, or may have."""

    @property
    def sound(self) -> str:
        """Codec of the sound, or ''."""

    def heard(self) -> Sound | None:
        """Return where the sound of what was read is, or None if there is none."""
