"""Programs that a backend builds ahead of a session, checks against another backend, and keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..checkpoint.find import Checkpoint
from .options import BackendOptions
from .protocol import FrameParams

# What is being done, and the share of it that is done.
Progress = Callable[[str, float], None]
# Renders a probe frame by other means: picture uint8 (S, S, 3), encoder_hidden_states float32
# (1, 77, D), parameters, edges uint8 (S, S) or None -> picture.
Reference = Callable[[np.ndarray, np.ndarray, FrameParams, np.ndarray | None], np.ndarray]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A program in the cache.

    variant: what tells it apart from others of its checkpoint. seconds: what building took.
    quality_db: PSNR of a probe frame against the reference, by size and runtime; empty until it was
    checked. weights_error: relative error that compression costs the weights. damaged: its record
    cannot be read, so nothing but `folder` and `size_bytes` is known. news: why it was built just
    now, '' if it was there. judge: the runtime that rendered the probe frame. plan: lines that say
    which compute unit runs how many operations.
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
        """What was measured, in words. against: title of the reference."""
        found = ", ".join(f"{quality:.1f} dB at {at}" for at, quality in self.quality_db.items())
        lost = f"; {self.weights} weights are off by {self.weights_error:.2%}"
        return f"against {against}: {found}{lost if self.weights_error else ''}"


class Programs(Protocol):
    """The programs of one backend; made without arguments. Methods raise SdxsError."""

    def prepare(
        self,
        checkpoint: Checkpoint,
        options: BackendOptions,
        reference: Reference,
        report: Progress,
        force: bool,
    ) -> list[Prepared]:
        """Build what is not cached, check it against `reference` and have its runtime meet it.

        force: build it again. Raises BackendError for one that fails the check.
        """

    def listed(self) -> list[Prepared]:
        """Everything in the cache."""
