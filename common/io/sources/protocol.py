"""What every source does: hand out uint8 (H, W, 3) BGR pictures, OpenCV's order."""

from typing import Protocol

import numpy as np


class Source(Protocol):
    """Anything that yields pictures.

    length: frames in one pass, None if endless. paced: `read` returns at once and the loop has to
    keep the rate `fps`.
    """

    name: str
    fps: float
    length: int | None
    paced: bool

    def read(self) -> np.ndarray | None:
        """Return the next picture, uint8 (H, W, 3) BGR, or None at the end. Raises SourceError."""

    def close(self) -> None:
        """Free the device or file; calling it again does nothing."""
