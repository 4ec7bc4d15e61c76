"""The interface between the live loop and a backend.

One thread loads, feeds and closes a backend. `submit` and `collect` cover a plain call (depth 1),
double buffering (depth 2) and a pipeline over several compute units (depth 3). Frames are always
collected in the order of their submission.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..adapt.mix import scaled
from ..errors import BackendError, PictureError
from .description import Description

NEARLY_ONE_COLOUR = 8  # levels; what the noise of a camera behind its cap differs by


@dataclass(frozen=True, slots=True)
class FrameParams:
    """Hold the parameters that may change between two frames.

    seed: seed of the noise.
    feedback: share of the previous frame's x0 in the latents before noising, 0 to 1. It steadies
    the picture and lets it keep what it painted before.
    control_scale: weight of the ControlNet residuals. At 0 the backend skips the ControlNet; above
    0 every frame needs its edges.
    text_only: text to image; start from zero latents and ignore the frame.
    lora_scale: factor on the weights of all LoRAs. loras: their weights under the prompt, in the
    order of the checkpoint's; None for the checkpoint's own. later: other LoRA weights may come
    some frames later, so that no frame waits for them.
    """

    seed: int = 0
    feedback: float = 0.0
    control_scale: float = 0.0
    text_only: bool = False
    lora_scale: float = 1.0
    loras: tuple[float, ...] | None = None
    later: bool = False


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Nanoseconds that a frame spent inside its backend, from submit to the end of collect.

    bridge_ns: the part spent between Python and the framework, if the framework reports it.
    behind: the frame has other weights of LoRAs than its parameters, see `FrameParams.later`.
    """

    total_ns: int
    bridge_ns: int = 0
    behind: bool = False


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes as counted by the backend's framework; model_bytes counts only the weights."""

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
        """Set encoder_hidden_states of the next submitted frames: float32 (1, 77, D), copied."""

    def set_params(self, params: FrameParams) -> None:
        """Set the live parameters of the next submitted frames."""

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        """Start a frame: uint8 (H, W, 3) RGB, C-contiguous, only read.

        edges: input of the ControlNet, uint8 (H, W), white on black. The caller may reuse the
        arrays after the matching `collect`.
        """

    def collect(self, out: np.ndarray) -> StageTimes:
        """Wait for the oldest submitted frame and write it into `out`: uint8 (H, W, 3) RGB.

        Raises PictureError if what was rendered is no picture, see `check_picture`: the frame is
        done, its x0 is not mixed into later ones, and the backend goes on.
        """

    def memory(self) -> MemoryUse:
        """Return the memory that the backend uses now."""

    def describe(self) -> Description:
        """Return the device, dtype and other facts for reports."""

    def close(self) -> None:
        """Free everything; a second call does nothing."""


def check_frame(frame: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise BackendError unless `frame` is uint8, C-contiguous and of `shape`."""
    if frame.dtype != np.uint8 or frame.shape != shape or not frame.flags.c_contiguous:
        raise BackendError(
            f"frame is {frame.dtype} "
            f"{frame.shape}{'' if frame.flags.c_contiguous else ', not contiguous'}; "
            f"expected contiguous uint8 {shape} RGB"
        )


def check_picture(
    name: str, picture: np.ndarray, given: np.ndarray | None, finite: bool, remedy: str
) -> None:
    """Raise PictureError if a rendered picture, uint8 (H, W, 3), is none.

    given: the frame it was rendered from; None if the frame was ignored. finite: whether all values
    behind the picture were. A picture of one colour is none, unless the frame was of one as well.
    """
    if not finite:
        raise PictureError(
            f"{name}: the picture is not finite: numbers overflowed, or the weights are damaged; "
            f"{remedy}"
        )
    if _spread(picture) == 0 and (given is None or _spread(given) > NEARLY_ONE_COLOUR):
        colour = tuple(int(level) for level in picture[0, 0])
        raise PictureError(
            f"{name}: the picture is {'black' if not any(colour) else f'of one colour, {colour},'} "
            f"throughout, and its frame is not; {remedy}"
        )


def _spread(picture: np.ndarray) -> int:
    """Return the largest difference within a channel, in levels.

    A coarse grid is looked at first, which costs microseconds and tells of nearly every picture.
    """
    height, width, _ = picture.shape
    for seen in (picture[:: max(1, height // 8), :: max(1, width // 8)], picture):
        spread = int(np.ptp(seen, axis=(0, 1)).max())
        if spread > NEARLY_ONE_COLOUR:
            break
    return spread


def check_edges(edges: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """Return `edges` if uint8, C-contiguous and of `shape`; otherwise raise BackendError."""
    if edges is None:
        raise BackendError(
            "control_scale is above 0 and the frame came without edges; submit both together"
        )
    if edges.dtype != np.uint8 or edges.shape != shape or not edges.flags.c_contiguous:
        raise BackendError(
            f"edges are {edges.dtype} {edges.shape}; expected contiguous uint8 {shape}"
        )
    return edges


def check_control(params: FrameParams, has_control: bool) -> None:
    """Raise BackendError for a control_scale above 0 without a loaded ControlNet."""
    if params.control_scale > 0 and not has_control:
        raise BackendError(
            f"control_scale is {params.control_scale:g} and no ControlNet is loaded; "
            "add --control sketch"
        )


def check_loras(name: str, params: FrameParams, built: tuple[float, ...]) -> None:
    """Raise BackendError for weights of LoRAs that a program was not built with.

    built: the weights, in the order of the checkpoint's LoRAs.
    """
    wanted = scaled(built if params.loras is None else params.loras, params.lora_scale)
    if built and wanted != built:
        raise BackendError(
            f"{name}: its program was built with LoRA weights {_listed(built)}, and "
            f"{_listed(wanted)} are asked for; they are fused when it is built: start again with "
            "other --lora weights, or take --backend mlx"
        )


def _listed(weights: tuple[float, ...]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)


def check_conditioning(encoder_hidden_states: np.ndarray, width: int | None = None) -> None:
    """Raise BackendError unless the array is finite float32 (1, tokens, width)."""
    if (
        encoder_hidden_states.dtype != np.float32
        or encoder_hidden_states.ndim != 3
        or encoder_hidden_states.shape[0] != 1
        or width not in (None, encoder_hidden_states.shape[2])
    ):
        raise BackendError(
            f"encoder_hidden_states is {encoder_hidden_states.dtype} "
            f"{encoder_hidden_states.shape}; expected float32 (1, tokens, {width or 'D'})"
        )
    if not np.isfinite(encoder_hidden_states).all():
        raise BackendError(
            "encoder_hidden_states holds values that are not finite; the text encoder's weights "
            "are damaged"
        )
