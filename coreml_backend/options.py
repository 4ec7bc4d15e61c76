"""The options of the Core ML backend: runtime, compute units, form of its programs."""

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from ..common.backend.options import BackendOptions
from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError
from ..common.picture.size import FrameSize, parse_sizes, sizes_text
from ..common.settings import setting
from ..graphs.compression import Compression
from ..graphs.ops import AttentionForm

InputForm = Literal["float32", "image"]
Stage = Literal["frame", "controlled", "encode", "unet", "decode"]
Runtime = Literal["coreml", "pyobjc", "reference"]
Process = Literal["child", "here"]
ComputeUnits = Literal["cpu_and_gpu", "cpu_and_ne", "all", "cpu_only"]

DEFAULT_UNITS: ComputeUnits = "cpu_and_gpu"
# The Neural Engine has no fused attention, and the CPU's crashes (stablehlo-coreml#89).
FORMS: Mapping[str, AttentionForm] = MappingProxyType(
    {
        "cpu_and_gpu": "sdpa",
        "all": "sdpa",
        "cpu_and_ne": "split_einsum",
        "cpu_only": "matmul",
    }
)
STAGES: tuple[Stage, ...] = ("encode", "unet", "decode")
WHOLE: tuple[Stage, ...] = ("frame",)
CONTROLLED: tuple[Stage, ...] = ("controlled",)
# names of --placement
UNITS = {"ne": "cpu_and_ne", "gpu": "cpu_and_gpu", "cpu": "cpu_only", "all": "all"}


@dataclass(frozen=True, slots=True)
class Variant:
    """The program to build from a checkpoint; equal values give equal programs.

    size: of the picture; an int is the side of a square. attention: 'sdpa' needs macOS 15; 'matmul'
    and 'split_einsum' (layout of the Neural Engine, float16 pictures) need macOS 14. input: images,
    or float32 (1, 3, H, W) in 0..255. weights: storage of large tensors. stage: 'controlled' is the
    whole frame with the ControlNet. noise_seed: noise to fold in; None makes noise an input.
    """

    size: FrameSize
    attention: AttentionForm = "sdpa"
    input: InputForm = "image"
    weights: Compression = "float16"
    stage: Stage = "frame"
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", FrameSize.of(self.size))
        for name, value, known in (
            ("attention", self.attention, AttentionForm),
            ("input", self.input, InputForm),
            ("weights", self.weights, Compression),
            ("stage", self.stage, Stage),
        ):
            if value not in get_args(known):
                raise UsageError(
                    f"Core ML {name} {value!r}: expected one of {', '.join(get_args(known))}"
                )


def parse_placement(text: str) -> tuple[str, ...]:
    """Parse 'encode=ne,unet=gpu,decode=ne' to ('ne', 'gpu', 'ne'), and '' to ().

    Raises UsageError.
    """
    if not text:
        return ()
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    placed = dict(pairs)
    if (
        sorted(placed) != sorted(STAGES)
        or len(pairs) != len(STAGES)
        or not set(placed.values()) <= UNITS.keys()
    ):
        raise UsageError(
            f"--placement {text}: expected every stage once with one of {', '.join(UNITS)}, as "
            "encode=ne,unet=gpu,decode=ne"
        )
    return tuple(placed[stage] for stage in STAGES)


def placement_text(placement: tuple[str, ...]) -> str:
    """Format ('ne', 'gpu', 'ne') as 'encode=ne,unet=gpu,decode=ne'."""
    return ",".join(f"{stage}={unit}" for stage, unit in zip(STAGES, placement, strict=False))


@dataclass(frozen=True, slots=True)
class CoreMLOptions(BackendOptions):
    """Settings of one Core ML backend.

    placement: compute units of encode, unet and decode; empty for one whole program on
    `compute_units`. control: use the program with the ControlNet. section: the stages of a placed
    frame in this process; empty for all.
    """

    dtype: Literal["auto", "float16"] = setting(
        "auto",
        "precision; Core ML computes in float16",
        why="Core ML programs compute in float16; use --dtype auto",
    )
    runtime: Runtime = setting(
        "coreml",
        "runtime of the program: coreml by coremltools, pyobjc straight by PyObjC, or reference, a "
        "slow NumPy interpreter whose times say nothing about Core ML",
        flag="--coreml-runtime",
    )
    process: Process = setting(
        "child",
        "where Core ML runs: in a child process, or here, which needs --coreml-runtime pyobjc: "
        "coremltools' calls stop every thread of their process",
        flag="--coreml-process",
    )
    compute_units: ComputeUnits | None = setting(
        None, "compute units for Core ML", shown=DEFAULT_UNITS
    )
    attention: AttentionForm | None = setting(
        None,
        "form of the attention: sdpa (macOS 15), matmul (14), split_einsum (Neural Engine)",
        shown="by compute unit: GPU and all sdpa, Neural Engine split_einsum, CPU matmul",
    )
    weights: Compression = setting(
        "float16",
        "storage of the weights; compression costs accuracy, which `convert` prints; the Neural "
        "Engine takes palettes but no int8",
    )
    input: InputForm = setting("float32", "form of the pictures: float32 arrays or images")
    sizes: tuple[FrameSize, ...] = setting(
        (),
        "sizes in pixels that one package supports, as 256,512 or 256,512x288",
        shown="--size alone",
        read=parse_sizes,
        write=sizes_text,
    )
    placement: tuple[str, ...] = setting(
        (),
        "compute unit of each stage, as encode=ne,unet=gpu,decode=ne; different units overlap",
        shown="one program on --compute-units",
        read=parse_placement,
        write=placement_text,
    )
    noise_seed: int | None = setting(
        None,
        "fold the noise of this seed into the program",
        minimum=0,
        shown="noise as input",
        flag="",
    )
    control: bool = False
    section: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        BackendOptions.__post_init__(self)  # super() fails in a class with slots before 3.14
        object.__setattr__(self, "sizes", parse_sizes(sizes_text(self.sizes)))
        parse_placement(placement_text(self.placement))
        if self.placement and self.compute_units is not None:
            raise UsageError(
                "--placement and --compute-units: both choose the compute unit; give one of them"
            )
        if self.sizes and self.size not in self.sizes:
            raise UsageError(
                f"--size {self.size}: is not among --sizes {sizes_text(self.sizes)}; add it there "
                "or use one of them"
            )
        if self.process == "here" and self.runtime == "coreml":
            raise UsageError(
                "--coreml-process here: coremltools' calls stop every thread of their process; use "
                "--coreml-runtime pyobjc, or --coreml-process child"
            )
        if self.control and self.placement:
            raise UsageError(
                "--placement: a frame under --control is one program and runs on one unit; use "
                "--compute-units"
            )

    @property
    def on_core_ml(self) -> bool:
        """Tell whether Core ML executes the programs, by either of its runtimes."""
        return self.runtime != "reference"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages whose programs these settings need."""
        return CONTROLLED if self.control else STAGES if self.placement else WHOLE

    @property
    def function(self) -> str | None:
        """Return the function of the package to run; None for a package with one function."""
        return f"size_{self.size}" if self.sizes else None

    def units(self, stage: str) -> str:
        """Return the compute units of one program, by coremltools' name."""
        if stage in STAGES and self.placement:
            return UNITS[self.placement[STAGES.index(stage)]]
        return self.compute_units or DEFAULT_UNITS

    @property
    def on_neural_engine(self) -> bool:
        """Tell whether a program of these options may run on the Neural Engine."""
        return any(self.units(stage) in ("cpu_and_ne", "all") for stage in self.stages)

    def remedies(self) -> Mapping[int, str]:
        """Return what to do about a process that Core ML ended, by signal."""
        gpu = "--placement with gpu" if self.placement else "--compute-units cpu_and_gpu"
        others = [
            *([gpu] if self.on_neural_engine else []),
            *(["--attention matmul"] if "sdpa" in self.forms else []),
            "--backend mlx",
        ]
        aborted = (
            "Core ML ends its process where a compute unit refuses a program: use "
            f"{' or '.join(others)}"
        )
        found: dict[int, str] = dict.fromkeys(
            (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS), aborted
        )
        if self.on_neural_engine:
            found[signal.SIGKILL] = (
                "the Neural Engine's compiler ends a process whose program it cannot take "
                f"(coremltools#2758): use {gpu}; if that is killed too, memory ran out: take a "
                "smaller --size"
            )
        return found

    def form(self, stage: str) -> AttentionForm:
        """Return the form of the attention in one program: the chosen one, or its unit's."""
        return self.attention or FORMS[self.units(stage)]

    @property
    def forms(self) -> str:
        """Return the form of every stage's program, once if it is the same."""
        found = [self.form(stage) for stage in self.stages]
        return found[0] if len(set(found)) == 1 else "+".join(found)

    def variant(self, stage: Stage = "frame") -> "Variant":
        """Return the variant of one stage; it does not depend on the runtime."""
        size = min(self.sizes) if self.sizes else self.size
        return Variant(size, self.form(stage), self.input, self.weights, stage, self.noise_seed)

    def identity(self) -> dict[str, str]:
        """Return the facts that identify a built package; part of its key in the cache."""
        facts = {
            "sizes": "+".join(map(str, sorted(self.sizes or (self.size,)))),
            "attention": self.forms,
            "input": self.input,
            "weights": self.weights,
            "stages": "+".join(self.stages),
            "noise": "noise as input"
            if self.noise_seed is None
            else f"noise of seed {self.noise_seed}",
        }
        facts |= {"control": "built in"} if self.control else {}
        return facts | ({"package": "several sizes"} if self.sizes else {})


def is_hosted(options: BackendOptions) -> bool:
    """Tell whether these options ask for a separate process: the bridge of coremltools needs one.

    PyObjC's calls let go of the GIL. Its default is a child, too, until a Mac has said otherwise
    (`ways` in the JSON of `sdxs mac-check`).
    """
    assert isinstance(options, CoreMLOptions)
    return (options.on_core_ml and options.process == "child") or bool(options.placement)


def runs_here() -> bool:
    """Tell whether this system has Core ML, so that it can be timed."""
    return sys.platform == "darwin"


def check_timed(options: BackendOptions) -> None:
    """Raise UsageError if the times would not be those of Core ML."""
    assert isinstance(options, CoreMLOptions)
    if options.runtime == "reference":
        raise UsageError(
            "--backend coreml:runtime=reference: the interpreter's times are no speed of Core ML, "
            "so bench rejects them; measure Core ML on macOS, or watch the program's pictures with "
            "`sdxs live --coreml-runtime reference`"
        )
    if not runs_here():
        raise UsageError(
            "--backend coreml: Core ML needs macOS, and bench accepts no substitute for it; use "
            "another --backend with --profile, which counts Core ML's operations on any system"
        )


def refuse_steps(checkpoint: Checkpoint) -> None:
    """Raise UsageError for frames of several steps: a program has one timestep folded in."""
    if checkpoint.frame.steps > 1:
        raise UsageError(
            f"--steps {checkpoint.frame.steps}: a Core ML program takes one step, its timestep is "
            "built in; use --backend mlx"
        )


def building() -> dict[str, object]:
    """Return the runtime that `convert` checks programs with: Core ML where there is one."""
    return {"runtime": "coreml" if runs_here() else "reference"}
