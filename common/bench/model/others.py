"""What others have published of the same models: their figures, on their machines, not ours.

Shown beside a report of the same UNet at the same size. Nothing of it was measured here.
"""

from dataclasses import dataclass

from .report import Work

TITLE = "what others published: their figures on their machines, not measured here"
HEADS = ("who", "machine", "frames/s", "what differs")
_SAME_M = 0.1  # millions of parameters: the paper gives one decimal


@dataclass(frozen=True, slots=True)
class Published:
    """One published rate. parameters_m: of the UNet, in millions. size: side of the frame."""

    who: str
    machine: str
    parameters_m: float
    size: int
    fps: float
    differs: str


_M3 = "Apple M3 Ultra, 60 GPU cores"
PUBLISHED = (
    Published(
        "arXiv:2605.16259, Phase 6", _M3, 328.2, 512, 22.7,
        "from camera to picture; Core ML, float16",
    ),
    Published(
        "ochyai/autostream-mac, its result files", _M3, 328.2, 512, 28.6,
        "the paper's program, after its author's fixes around Core ML; Core ML, float16",
    ),
    Published(
        "LibreDiffusion, its README", "NVIDIA RTX 5090", 328.2, 512, 600.0,
        "at least; TensorRT; which SDXS, what size and how many frames in flight are not told",
    ),
    Published(
        "LibreDiffusion, its README", "NVIDIA RTX 5090", 865.9, 512, 96.0,
        "SD-Turbo in TensorRT; how many frames are in flight is not told",
    ),
)  # fmt: skip


def published(work: Work) -> list[tuple[str, str, str, str]]:
    """Return a row under `HEADS` for every figure of the same UNet at the same size."""
    return [
        (each.who, each.machine, f"{each.fps:g}", each.differs)
        for each in PUBLISHED
        if abs(work.unet_parameters / 1e6 - each.parameters_m) <= _SAME_M and work.size == each.size
    ]
