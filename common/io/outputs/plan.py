"""What an output is asked to send, and what sends it."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """What is sent, and where.

    label: what messages call it, without a password or a key. name: what follows the kind's colon,
    or a URL. fps: frames a second, about. height, width: of the pictures, even.
    """

    label: str
    name: str
    fps: float
    height: int
    width: int

    @property
    def rate(self) -> Fraction:
        """Frames a second as FFmpeg and NDI take them: 60000/1001."""
        return Fraction(self.fps).limit_denominator(1001)


class Outlet(Protocol):
    """Sends pictures for one output; its calls may take long, and come from one thread.

    Raises SinkLost where the next try may succeed, and SinkError for good.
    """

    def send(self, picture: np.ndarray, at_s: float) -> None:
        """Send uint8 (H, W, 3) RGB, `at_s` seconds after the first; it is valid during the call."""

    def close(self) -> None:
        """End it; calling it again does nothing."""
