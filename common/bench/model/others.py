"""What others have published of the same models: their figures, on their machines, not ours.

Shown beside a report of the same UNet at the same size. Nothing of it was measured here.
"""

from dataclasses import dataclass

from .report import Work

TITLE = "what others published: their figures on their machines, not measured here"
HEADS = ("who", "machine", "model", "size", "frames/s", "what differs")
_MADE_FOR = 512
_SAME_M = 0.1  # millions of parameters: the paper gives one decimal


@dataclass(frozen=True, slots=True)
class Published:
    """One published rate.

    parameters_m: of the UNet, in millions. size: side of the frame; None if it is not told. fps: in
    the words of the source.
    """

    who: str
    machine: str
    model: str
    parameters_m: float
    size: int | None
    fps: str
    differs: str


_M3 = "Apple M3 Ultra, 60 GPU cores"
_LIBRE = "jcelerier/librediffusion, its README"
PUBLISHED = (
    Published(
        "arXiv:2605.16259, Phase 6", _M3, "SDXS-512-0.9", 328.2, 512, "22.7",
        "from camera to picture; Core ML, float16",
    ),
    Published(
        "ochyai/autostream-mac, its result files", _M3, "SDXS-512-0.9", 328.2, 512, "28.6",
        "the paper's program, after its author's fixes around Core ML; Core ML, float16",
    ),
    Published(
        _LIBRE, "NVIDIA RTX 5090", "SDXS", 328.2, None, "above 600",
        "TensorRT; which SDXS, what size and how many frames in flight are not told",
    ),
    Published(
        _LIBRE, "NVIDIA RTX 5090", "SD-Turbo", 865.9, 512, "96",
        "TensorRT, one step; how many frames are in flight is not told",
    ),
)  # fmt: skip


def published(work: Work) -> list[tuple[str, ...]]:
    """Return a row under `HEADS` for every figure of the same UNet at the same size.

    A figure that tells no size stands beside 512, which the models are made for.
    """
    return [
        (
            each.who,
            each.machine,
            each.model,
            str(each.size or "not told"),
            each.fps,
            each.differs,
        )
        for each in PUBLISHED
        if abs(work.unet_parameters / 1e6 - each.parameters_m) <= _SAME_M
        and work.size == (each.size or _MADE_FOR)
    ]
