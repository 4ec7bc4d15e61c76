"""What a window or a file shows of a frame: the picture, the camera beside it, half of each."""

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from .threads.frames import LiveFrame


class View(Enum):
    """What is on the screen."""

    OUTPUT = auto()
    SIDE_BY_SIDE = auto()
    SPLIT = auto()
    EDGES = auto()

    @property
    def title(self) -> str:
        """Its name in a record."""
        return self.name.lower().replace("_", " ")


@dataclass(slots=True)
class Look:
    """What one window shows: its view, figures, help, and the prompt that is being typed."""

    view: View = View.OUTPUT
    overlay: bool = False
    help: bool = False
    typed: str | None = None

    def toggle(self, view: View) -> None:
        """Change to a view, or back to the output."""
        self.view = View.OUTPUT if self.view is view else view


def compose(frame: LiveFrame, view: View) -> np.ndarray:
    """Lay out camera and outputs by view: uint8 (H, n W, 3) RGB; may alias the frame's buffers.

    Side by side never does, so that it can be labelled.
    """
    if view is View.SIDE_BY_SIDE:
        return np.hstack([frame.camera, *frame.outputs])
    if view is View.EDGES and frame.edges is not None:
        return np.repeat(frame.edges[..., None], 3, axis=-1)
    if view is View.SPLIT:
        half = frame.camera.shape[1] // 2
        halves = [output.copy() for output in frame.outputs]
        for picture in halves:
            picture[:, :half] = frame.camera[:, :half]
            picture[:, half : half + 1] = 255
        return halves[0] if len(halves) == 1 else np.hstack(halves)
    return frame.outputs[0] if len(frame.outputs) == 1 else np.hstack(frame.outputs)
