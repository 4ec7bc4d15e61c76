"""The one seam between the camera loop and whatever renders a frame.

A backend is loaded, fed and closed by one thread. `submit` and `collect` cover a plain
call (depth 1), double buffering (depth 2) and a pipeline over several compute units
(depth 3); frames always come back in the order they went in.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import BackendError
from .description import Description


@dataclass(frozen=True, slots=True)
class FrameParams:
    """What may change between two frames.

    seed: of the noise. feedback: share, 0 to 1, of the previous frame's x0 in the latents that are
    noised; it steadies the picture and lets it dwell on what it painted before. control_scale:
    strength of the ControlNet; at 0 the backend leaves it out, and above 0 every frame must come
    with its edges. text_only: start from latents of 0, so that the frame makes no difference: text
    to image.
    """

    seed: int = 0
    feedback: float = 0.0
    control_scale: float = 0.0
    text_only: bool = False


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Nanoseconds a frame spent inside its backend, from submit to the end of collect.

    bridge_ns: the part that was spent between Python and the framework, where a framework tells.
    """

    total_ns: int
    bridge_ns: int = 0


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes, as the backend's framework counts them; model_bytes are the weights alone."""

    active_bytes: int
    peak_bytes: int
    cache_bytes: int
    model_bytes: int


class Backend(Protocol):
    """Render uint8 RGB frames under a prompt. All calls come from the thread that called `load`."""

    name: str
    depth: int

    def load(self) -> None:
        """Read the weights, compile and warm up. Raises SdxsError."""

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        """Take the prompt for frames submitted from now on: float32 (1, 77, D), copied."""

    def set_params(self, params: FrameParams) -> None:
        """Take live parameters for frames submitted from now on."""

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        """Start a frame: uint8 (S, S, 3) RGB, C-contiguous, not written to.

        edges: what a ControlNet reads, uint8 (S, S), white on black. The arrays may be reused once
        the matching `collect` has returned.
        """

    def collect(self, out: np.ndarray) -> StageTimes:
        """Wait for the oldest submitted frame and write it into `out`: uint8 (S, S, 3) RGB."""

    def memory(self) -> MemoryUse:
        """Say what the backend holds now."""

    def describe(self) -> Description:
        """Name device, dtype and whatever else a result must be reported with."""

    def close(self) -> None:
        """Free everything; calling it again does nothing."""


def check_frame(frame: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise BackendError unless `frame` is uint8, C-contiguous and of `shape`."""
    if frame.dtype != np.uint8 or frame.shape != shape or not frame.flags.c_contiguous:
        raise BackendError(
            f"frame is {frame.dtype} "
            f"{frame.shape}{'' if frame.flags.c_contiguous else ', not contiguous'}; "
            f"expected contiguous uint8 {shape} RGB"
        )


def check_edges(edges: np.ndarray | None, size: int) -> np.ndarray:
    """Return `edges` if they are uint8 (size, size) and C-contiguous, else raise BackendError."""
    if edges is None:
        raise BackendError(
            "control_scale is above 0 and the frame came without edges; submit them with it"
        )
    if edges.dtype != np.uint8 or edges.shape != (size, size) or not edges.flags.c_contiguous:
        raise BackendError(
            f"edges are {edges.dtype} {edges.shape}; expected contiguous uint8 ({size}, {size})"
        )
    return edges


def check_control(params: FrameParams, has_control: bool) -> None:
    """Raise BackendError for a control_scale above 0 where no ControlNet is loaded."""
    if params.control_scale > 0 and not has_control:
        raise BackendError(
            f"control_scale is {params.control_scale:g} and no ControlNet is loaded; add --control "
            "sketch"
        )


def check_conditioning(states: np.ndarray, width: int | None = None) -> None:
    """Raise BackendError unless `states` is finite float32 (1, tokens, width)."""
    if (
        states.dtype != np.float32
        or states.ndim != 3
        or states.shape[0] != 1
        or width not in (None, states.shape[2])
    ):
        raise BackendError(
            f"encoder_hidden_states is {states.dtype} {states.shape}; expected float32 (1, tokens, "
            f"{width or 'D'})"
        )
    if not np.isfinite(states).all():
        raise BackendError(
            "encoder_hidden_states holds values that are not finite; the text encoder's weights "
            "are damaged"
        )
