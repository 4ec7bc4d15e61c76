"""The options of the MLX backend; imports no MLX, because the help needs them."""

from collections.abc import Mapping
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
    """Settings of one MLX backend; the backend resolves None and 'auto' for its device."""

    dtype: Dtype = setting("auto", "precision; auto is float16 on a GPU and float32 on a CPU")
    lanes: int | None = setting(
        None,
        "threads that compute frames; more raise the frame rate and the latency",
        minimum=1,
        maximum=8,
        unit="threads",
        shown="a CPU's cores, at most 4; 1 on a GPU",
    )
    batch: int = setting(
        1,
        "most waiting frames that a lane computes at once; a power of two",
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
        shown="enough to keep every lane busy",
    )
    kernels: Kernels = setting(
        "auto", "compute group norms with a kernel of sdxs; auto is on with CUDA"
    )
    attention: Attention = setting(
        "auto",
        "form of cross-attention: fused, or folded with the prompt; auto is folded on CUDA "
        "without a batch",
        flag="--mlx-attention",
    )
    pictures: Pictures = setting(
        "auto",
        "place of pictures: host memory, or CUDA's moving managed memory; auto is host on CUDA "
        "with lane threads",
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

    def in_flight(self) -> int | None:
        """Return the frames in flight; None where the number of lanes depends on the machine."""
        return self.depth if self.lanes is None else self.in_flight_on(self.lanes)

    def in_flight_on(self, lanes: int) -> int:
        """Return the frames in flight: `depth`, or enough to keep so many lanes busy."""
        enough = lanes if self.batch == 1 else min((lanes + 1) * self.batch, MOST_IN_FLIGHT)
        return self.depth or enough


def exact() -> Mapping[str, object]:
    """Return the values of the options with which MLX is a reference: float32, MLX's own forms."""
    return {"dtype": "float32", "kernels": "off", "attention": "fused"}
