"""Options of a live session, fixed once it runs; what may change is in `parameters.py`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How frames travel.

    frames: stop after so many. hold: change to the next prompt after so many frames; 0 for never.
    realtime: the freshest frame wins; otherwise every frame is rendered, in order. sequential: one
    thread does everything in turn, as in the paper, to compare with. skip_threshold: see
    `Similarity`. stall_s: a source silent for so long is lost. transition_s: how long one prompt
    takes to become the next, on the camera's clock, or, where every frame is rendered, on the
    file's. edges: the kind that is drawn of every frame for a ControlNet, see `edges.py`, or none.
    """

    size: int
    frames: int | None = None
    hold: int = 0
    realtime: bool = True
    sequential: bool = False
    skip_threshold: float = 0.0
    stall_s: float = 10.0
    transition_s: float = 0.0
    edges: str = ""
