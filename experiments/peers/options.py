"""What the PyTorch peer is built with. Imports nothing of PyTorch: bench reads it for messages."""

from dataclasses import dataclass
from typing import Literal

from ...common.backend.options import BackendOptions
from ...common.errors import UsageError
from ...common.settings import setting

Mode = Literal[
    "eager",
    "channels_last",
    "compile",
    "max-autotune",
    "graph",
    "compile+graph",
    "max-autotune+graph",
]


@dataclass(frozen=True, slots=True)
class TorchOptions(BackendOptions):
    """Settings of one PyTorch peer."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = setting(
        "auto", "precision; auto is float16 on a GPU and float32 on a CPU"
    )
    mode: Mode = setting("channels_last", "what a frame is made faster by; a graph needs CUDA")
    batch: int = setting(
        1, "frames that are computed at once", minimum=1, maximum=64, unit="frames"
    )
    depth: int | None = setting(
        None,
        "frames in flight; at least a batch",
        minimum=1,
        maximum=128,
        unit="frames",
        shown="1; two batches where there are batches",
    )
    # Off, as PyTorch itself has it, and as all published figures were measured.
    cudnn_benchmark: bool = setting(
        False, "let cuDNN time its convolutions while warming up, and take the fastest; needs CUDA"
    )

    def __post_init__(self) -> None:
        BackendOptions.__post_init__(self)  # super() fails in a class with slots before 3.14
        if self.depth is not None and self.depth < self.batch:
            raise UsageError(
                f"torch: depth {self.depth}: no batch of {self.batch} would ever be full; expected "
                f"at least {self.batch}"
            )

    def in_flight(self) -> int:
        """Return the frames in flight: `depth`, or two batches where there are batches."""
        return self.depth or (1 if self.batch == 1 else 2 * self.batch)
