"""The options of the Core AI backend: compute unit, form and storage of its programs."""

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from ..common.backend.options import BackendOptions
from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError
from ..common.picture.size import FrameSize, parse_sizes, sizes_text
from ..common.settings import setting
from ..common.system import macos_major
from ..graphs.compression import Compression
from ..graphs.ops import AttentionForm

Dtype = Literal["auto", "float16", "float32"]
Stage = Literal["frame", "controlled"]
# the package has integer types of 2, 4 and 8 bits
Storage = Literal["float16", "int8", "palettize8", "palettize4", "palettize2"]
Unit = Literal["gpu", "ne", "cpu", "any"]

FRAMEWORK_MACOS = 27  # the first macOS with CoreAI.framework, which has compute units
# The Neural Engine has no fused attention. On the package's CPU runtime float16 products are scalar
# loops; split_einsum has the fewest of them.
FORMS: Mapping[str, AttentionForm] = MappingProxyType(
    {"gpu": "sdpa", "any": "sdpa", "ne": "split_einsum", "cpu": "split_einsum"}
)


@dataclass(frozen=True, slots=True)
class Variant:
    """The program to build from a checkpoint; equal values give equal programs.

    sizes: of the picture, a function for each. dtype: of weights and networks. weights: storage of
    large tensors. stage: 'controlled' is the frame with the ControlNet.
    """

    sizes: tuple[FrameSize, ...]
    attention: AttentionForm
    dtype: str = "float16"
    weights: Compression = "float16"
    stage: Stage = "frame"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("attention", self.attention, AttentionForm),
            ("weights", self.weights, Storage),
            ("stage", self.stage, Stage),
        ):
            if value not in get_args(known):
                raise UsageError(
                    f"Core AI {name} {value!r}: expected one of {', '.join(get_args(known))}"
                )

    @property
    def numpy_dtype(self) -> type[np.floating]:
        return np.float32 if self.dtype == "float32" else np.float16


@dataclass(frozen=True, slots=True)
class CoreAIOptions(BackendOptions):
    """Settings of one Core AI backend. control: use the program with the ControlNet."""

    dtype: Dtype = setting("auto", "precision; auto is float16")
    unit: Unit | None = setting(
        None,
        "preferred compute unit of Core AI; any leaves the choice to it, which was seen to be "
        "silently wrong in float16 (coreai-torch#115)",
        flag="--coreai-unit",
        shown="gpu on macOS 27, cpu elsewhere",
    )
    attention: AttentionForm | None = setting(
        None,
        "form of the attention: sdpa, matmul, split_einsum (Neural Engine)",
        shown="by compute unit: gpu and any sdpa, ne and cpu split_einsum",
    )
    weights: Storage = setting(
        "float16",
        "storage of the weights; compression costs accuracy, which `convert` prints",
    )
    sizes: tuple[FrameSize, ...] = setting(
        (),
        "sizes in pixels that one program supports, as 256,512 or 256,512x288",
        shown="--size alone",
        read=parse_sizes,
        write=sizes_text,
    )
    control: bool = False

    def __post_init__(self) -> None:
        BackendOptions.__post_init__(self)  # super() fails in a class with slots before 3.14
        object.__setattr__(self, "sizes", parse_sizes(sizes_text(self.sizes)))
        if self.sizes and self.size not in self.sizes:
            raise UsageError(
                f"--size {self.size}: is not among --sizes {sizes_text(self.sizes)}; add it there "
                "or use one of them"
            )
        if self.dtype == "float32" and self.weights != "float16":
            raise UsageError(
                f"--dtype float32 with --weights {self.weights}: compressed weights are float16; "
                "use --dtype float16"
            )
        if self.unit not in (None, "cpu") and not has_framework():
            raise UsageError(
                f"--coreai-unit {self.unit}: needs macOS {FRAMEWORK_MACOS}; here Apple's package "
                "computes on one CPU core, use --coreai-unit cpu"
            )

    @property
    def stage(self) -> Stage:
        """Return the stage whose program these settings need."""
        return "controlled" if self.control else "frame"

    @property
    def used_unit(self) -> Unit:
        """Return the compute unit: the chosen one, or this system's default."""
        return self.unit or ("gpu" if has_framework() else "cpu")

    @property
    def form(self) -> AttentionForm:
        return self.attention or FORMS[self.used_unit]

    @property
    def precision(self) -> str:
        """Return 'float16' or 'float32'."""
        return "float16" if self.dtype == "auto" else self.dtype

    @property
    def stored(self) -> str:
        """Return the storage of the weights: the precision, unless they are compressed."""
        return self.precision if self.weights == "float16" else self.weights

    @property
    def function(self) -> str:
        """Return the function of the program to run."""
        return function_of(self.size)

    def controlled(self) -> "CoreAIOptions":
        """Return these options for the program with the ControlNet."""
        return replace(self, control=True)

    def variant(self) -> Variant:
        sizes = self.sizes or (self.size,)
        return Variant(sizes, self.form, self.precision, self.weights, self.stage)

    def identity(self) -> dict[str, str]:
        """Return the facts that identify a built program; part of its key in the cache."""
        facts = {
            "sizes": "+".join(map(str, self.sizes or (self.size,))),
            "attention": self.form,
            "dtype": self.precision,
            "weights": self.stored,
        }
        return facts | ({"control": "built in"} if self.control else {})

    def remedies(self) -> Mapping[int, str]:
        """Return what to do about a process that Core AI ended, by signal."""
        again = (
            "Core AI ends its process over a program that it cannot read: run `sdxs convert "
            "--backend coreai --force`; if it ends again, use --backend mlx"
        )
        signals = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP)
        return dict.fromkeys(signals, again)


def function_of(size: FrameSize) -> str:
    """Name the function of a program for one size of the picture."""
    return f"size_{size}"


def has_framework() -> bool:
    """Tell whether this system has Core AI itself: compute units, and times that count."""
    return sys.platform == "darwin" and (macos_major() or 0) >= FRAMEWORK_MACOS


def is_hosted(_: BackendOptions) -> bool:
    """Tell whether the default is a separate process: always, as a damaged program ends one."""
    return True


def check_timed(_: BackendOptions) -> None:
    """Raise UsageError if the times would not be those of Core AI."""
    if not has_framework():
        raise UsageError(
            "--backend coreai: times of Apple's package, on one CPU core, are no speed of Core AI, "
            f"so bench rejects them; measure Core AI on macOS {FRAMEWORK_MACOS}, or watch its "
            "pictures with `sdxs live --backend coreai`"
        )


def check_options(checkpoint: Checkpoint, options: CoreAIOptions) -> None:
    """Raise UsageError for a size or steps that a program of `checkpoint` cannot have."""
    for size in options.sizes or (options.size,):
        checkpoint.check_size(size)
    refuse_steps(checkpoint)


def refuse_steps(checkpoint: Checkpoint) -> None:
    """Raise UsageError for frames of several steps: a program has one timestep folded in."""
    if checkpoint.frame.steps > 1:
        raise UsageError(
            f"--steps {checkpoint.frame.steps}: a Core AI program takes one step, its timestep is "
            "built in; use --backend mlx"
        )
