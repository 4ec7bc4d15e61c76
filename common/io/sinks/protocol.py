"""What every sink does. Nothing is created before the first picture arrives."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ...picture.record import Stamp


class Sink(Protocol):
    """Takes uint8 (H, W, 3) RGB pictures of one size."""

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        """Take one picture, shown at `shown_ns` (perf_counter_ns); its array may be reused.

        Raises SinkError.
        """

    def close(self) -> None:
        """Finish and keep what was written; calling it again does nothing."""


@runtime_checkable
class StampedSink(Protocol):
    """A sink whose PNGs carry the record of their picture."""

    def stamp_next(self, stamp: Stamp) -> None:
        """Take what puts the record into the PNG of the next picture, if it becomes one."""


@runtime_checkable
class WritingSink(Protocol):
    """A sink that leaves files. written: their places, once it is closed."""

    written: list[Path]
