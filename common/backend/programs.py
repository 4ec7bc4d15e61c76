"""Programs that a backend builds ahead of a session, checks against a reference, and caches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..checkpoint.find import Checkpoint
from .options import BackendOptions
from .protocol import FrameParams

# (current step, share of it that is done, 0 to 1)
Progress = Callable[[str, float], None]
# Renders a probe frame with the reference backend: picture uint8 (H, W, 3),
# encoder_hidden_states float32 (1, 77, D), parameters, edges uint8 (H, W) or None -> picture.
Reference = Callable[[np.ndarray, np.ndarray, FrameParams, np.ndarray | None], np.ndarray]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Describe a program in the cache.

    variant: the options that distinguish it from other programs of its checkpoint.
    seconds: build time.
    quality_db: PSNR of a probe frame against the reference, by size and runtime; empty before the
    check.
    weights_error: relative error of the compressed weights.
    damaged: its record is unreadable; only `folder` and `size_bytes` are known.
    news: rebuild reason, '' for a program that was cached.
    judge: the runtime that rendered the probe frame.
    plan: returns lines with the number of operations per compute unit.
    """

    folder: Path
    size_bytes: int
    model: str = ""
    variant: tuple[str, ...] = ()
    seconds: float = 0.0
    quality_db: Mapping[str, float] = field(default_factory=dict)
    weights: str = ""
    weights_error: float = 0.0
    damaged: bool = False
    news: str = ""
    judge: str = ""
    plan: Callable[[], list[str]] = list

    def quality(self, against: str) -> str:
        """Return the measured quality in words. against: title of the reference."""
        found = ", ".join(f"{quality:.1f} dB at {at}" for at, quality in self.quality_db.items())
        lost = f"; {self.weights} weights are off by {self.weights_error:.2%}"
        return f"against {against}: {found}{lost if self.weights_error else ''}"


class Programs(Protocol):
    """The programs of one backend; built without arguments. Methods raise SdxsError."""

    def prepare(
        self,
        checkpoint: Checkpoint,
        options: BackendOptions,
        reference: Reference,
        report: Progress,
        force: bool,
    ) -> list[Prepared]:
        """Build the missing programs, check them against `reference` and load them once.

        force: build cached programs again. Raises BackendError for a program that fails the check.
        """

    def listed(self) -> list[Prepared]:
        """Return every program in the cache."""
