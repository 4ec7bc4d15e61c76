"""The instrument of a backend: counts of its work, peaks of its machine, times of its stages.

Reached by name, like the backend itself, and called in the backend's own process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...backend.protocol import Backend
from ...checkpoint.find import Checkpoint
from ...picture.size import Size

STAGES = ("encode", "unet", "decode")
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class StageCost:
    """The work of one stage of one frame, as its graph has it.

    Numbers and not bytes, so that any precision can be asked about.

    flops: of convolutions, linears and attention products, a multiply-add being two. weights:
    numbers in the tensors that these read. activations: numbers that these read and write, each
    once, everything between them taken as fused: the least traffic, so arithmetic intensity is the
    most.
    """

    stage: str
    flops: int
    weights: int
    activations: int

    def plus(self, flops: int, weights: int, activations: int) -> "StageCost":
        return StageCost(
            self.stage, self.flops + flops, self.weights + weights, self.activations + activations
        )


@dataclass(frozen=True, slots=True)
class Peaks:
    """The machine's best through a framework: a large matrix product and a large copy."""

    flops_per_s: float
    bytes_per_s: float
    dtype: str
    how: str


class Instrument(Protocol):
    """One backend's own measuring. Methods raise SdxsError."""

    def count(self, checkpoint: Checkpoint, size: Size) -> Sequence[StageCost]:
        """Count a frame's work from its graph, by stage. Needs no backend and no accelerator."""

    def peaks(self, dtype: str) -> Peaks:
        """Measure the device that the backend runs on, in its precision."""

    def notes(self, backend: Backend) -> list[str]:
        """Return the framework's remarks on a loaded backend's frame, such as its units."""

    def profile(self, backend: Backend, picture: np.ndarray, frames: int) -> dict[str, list[float]]:
        """Run the stages one by one and wait for each: milliseconds of `frames` frames by stage.

        picture: uint8 (H, W, 3) RGB. Stages: those of STAGES, and 'in' and 'out' for the picture's
        way into the framework and back. The sum is more than a frame: what overlaps or is fused in
        one no longer is.
        """
