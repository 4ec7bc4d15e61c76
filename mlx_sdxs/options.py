"""What the MLX backend is built with. Imports nothing of MLX: the help is made from it."""

from dataclasses import dataclass
from typing import Literal

from ..common.backend.options import BackendOptions
from ..common.errors import UsageError
from ..common.settings import setting

MOST_IN_FLIGHT = 64

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Kernels = Literal["auto", "on", "off"]
Attention = Literal["auto", "fused", "folded"]
Pictures = Literal["auto", "host", "moving"]


@dataclass(frozen=True, slots=True)
class MlxOptions(BackendOptions):
    """Settings of one MLX backend. None and 'auto' are resolved by the backend, on its device."""

    dtype: Dtype = setting("auto", "precision; auto is float16 on a GPU and float32 on a CPU")
    lanes: int | None = setting(
        None,
        "threads that compute frames; more frames a second, each of them later",
        minimum=1,
        maximum=8,
        unit="threads",
        shown="a CPU's cores, at most 4; 1 on a GPU",
    )
    batch: int = setting(
        1,
        "waiting frames that a lane computes at once, a power of two",
        minimum=1,
        maximum=16,
        unit="frames",
    )
    depth: int | None = setting(
        None,
        "frames in flight; at least a batch",
        minimum=1,
        maximum=MOST_IN_FLIGHT,
        unit="frames",
        shown="what keeps every lane full",
    )
    kernels: Kernels = setting("auto", "norms by a kernel of sdxs; auto is on with CUDA")
    attention: Attention = setting(
        "auto",
        "prompt's projections as their own operations, or folded into the attention; auto folds on "
        "CUDA without a batch",
        flag="--mlx-attention",
    )
    pictures: Pictures = setting(
        "auto",
        "pictures in the host's memory, or moving by itself; auto is host on CUDA with threads",
        flag="--mlx-pictures",
    )

    def __post_init__(self) -> None:
        BackendOptions.__post_init__(self)  # super() fails in a class with slots before 3.14
        if self.batch & (self.batch - 1):
            raise UsageError(f"mlx: batch {self.batch}: expected a power of two, up to 16")
        if self.depth is not None and self.depth < self.batch:
            raise UsageError(
                f"mlx: depth {self.depth}: no batch of {self.batch} would ever be full; expected "
                f"at least {self.batch}"
            )
