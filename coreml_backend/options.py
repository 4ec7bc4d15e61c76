"""What only the Core ML backend is told: runtime, compute units, attention, precision of the weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..common.backend import BackendOptions
from ..common.errors import UsageError

if TYPE_CHECKING:
    from .program import Variant

RUNTIMES = ("coreml", "reference")
COMPUTE_UNITS = ("cpu_and_gpu", "cpu_and_ne", "all", "cpu_only")
ATTENTIONS = ("sdpa", "matmul", "split_einsum")
WEIGHTS = ("float16", "int8", "palettize8", "palettize6", "palettize4", "palettize2")
_CHOICES = {"runtime": RUNTIMES, "compute_units": COMPUTE_UNITS, "attention": ATTENTIONS, "weights": WEIGHTS}


@dataclass(frozen=True, slots=True)
class CoreMLOptions:
    """Settings of one backend; `size` in pixels.

    attention: 'sdpa' needs macOS 15, 'matmul' macOS 14, 'split_einsum' is the Neural Engine's layout.
    weights: 'float16', or compressed, which costs accuracy that `sdxs convert` prints.
    """

    size: int
    runtime: str = "coreml"
    compute_units: str = "cpu_and_gpu"
    attention: str = "sdpa"
    weights: str = "float16"

    @classmethod
    def parse(cls, options: BackendOptions) -> "CoreMLOptions":
        """Read `BackendOptions.settings`. Raises UsageError for an unknown name or value, or another dtype."""
        if options.dtype not in ("auto", "float16"):
            raise UsageError(f"--dtype {options.dtype}: Core ML programs compute in float16; use --dtype auto")
        chosen = dict(options.settings)
        for name, value in chosen.items():
            if name not in _CHOICES:
                raise UsageError(f"coreml: unknown setting {name!r}; known are {', '.join(_CHOICES)}")
            if value not in _CHOICES[name]:
                flag = "--coreml-runtime" if name == "runtime" else f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {value}: expected one of {', '.join(_CHOICES[name])}")
        return cls(options.size, **chosen)

    def variant(self) -> "Variant":
        """The program these settings need; runtime and compute units do not change it."""
        from .program import Variant

        return Variant(size=self.size, attention=self.attention, input="float32", weights=self.weights, stage="frame")
