"""What the Core ML backend is built with: runtime, compute units, the form of its programs."""

import sys
from dataclasses import dataclass
from typing import Literal

from ..common.backend.options import BackendOptions
from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError
from ..common.settings import setting
from .variant import AttentionForm, Compression, InputForm, Stage, Variant

Runtime = Literal["coreml", "reference"]
ComputeUnits = Literal["cpu_and_gpu", "cpu_and_ne", "all", "cpu_only"]

DEFAULT_UNITS: ComputeUnits = "cpu_and_gpu"
STAGES: tuple[Stage, ...] = ("encode", "unet", "decode")
WHOLE: tuple[Stage, ...] = ("frame",)
CONTROLLED: tuple[Stage, ...] = ("controlled",)
UNITS = {
    "ne": "cpu_and_ne",
    "gpu": "cpu_and_gpu",
    "cpu": "cpu_only",
    "all": "all",
}  # as --placement spells them


def parse_placement(text: str) -> tuple[str, ...]:
    """'encode=ne,unet=gpu,decode=ne' -> ('ne', 'gpu', 'ne'); nothing for nothing. Raises
    UsageError.
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
    """('ne', 'gpu', 'ne') -> 'encode=ne,unet=gpu,decode=ne'."""
    return ",".join(f"{stage}={unit}" for stage, unit in zip(STAGES, placement, strict=False))


def parse_sizes(text: str) -> tuple[int, ...]:
    """'512,256' -> (256, 512); nothing for nothing. Raises UsageError."""
    if not text:
        return ()
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise UsageError(f"--sizes {text}: expected different sides in pixels, as 256,512")
    return tuple(sorted(map(int, parts)))


def sizes_text(sizes: tuple[int, ...]) -> str:
    """(256, 512) -> '256,512'."""
    return ",".join(map(str, sizes))


@dataclass(frozen=True, slots=True)
class CoreMLOptions(BackendOptions):
    """Settings of one Core ML backend.

    placement: compute units of encode, unet and decode, or empty for one program from picture to
    picture on `compute_units`. control: the program with the ControlNet in it. section: the stages
    of a placed frame that one process runs, empty for all.
    """

    dtype: Literal["auto", "float16"] = setting(
        "auto",
        "precision; Core ML computes in float16",
        why="Core ML programs compute in float16; use --dtype auto",
    )
    runtime: Runtime = setting(
        "coreml",
        "what executes the program: Core ML, or the reference interpreter in NumPy, which is no "
        "Core ML and no speed",
        flag="--coreml-runtime",
    )
    compute_units: ComputeUnits | None = setting(
        None, "compute units that Core ML may use", shown=DEFAULT_UNITS
    )
    attention: AttentionForm = setting(
        "sdpa", "form of the attention: sdpa (macOS 15), matmul (14), split_einsum (Neural Engine)"
    )
    weights: Compression = setting(
        "float16", "storage of the weights; compression costs accuracy, which `convert` prints"
    )
    input: InputForm = setting("float32", "pictures as arrays of float32 or as images")
    sizes: tuple[int, ...] = setting(
        (),
        "all sides that one package holds, as 256,512",
        shown="the --size alone",
        read=parse_sizes,
        write=sizes_text,
    )
    placement: tuple[str, ...] = setting(
        (),
        "a unit for each stage, as encode=ne,unet=gpu,decode=ne, which then overlap",
        shown="one program on --compute-units",
        read=parse_placement,
        write=placement_text,
    )
    noise_seed: int | None = setting(
        None,
        "build the noise of this seed into the program",
        minimum=0,
        shown="noise as input",
        flag="",
    )
    control: bool = False
    section: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        BackendOptions.__post_init__(self)  # super() fails in a class with slots before 3.14
        parse_sizes(sizes_text(self.sizes))
        parse_placement(placement_text(self.placement))
        if self.placement and self.compute_units is not None:
            raise UsageError(
                "--placement and --compute-units: each says where the program runs; give one of "
                "them"
            )
        if self.sizes and self.size not in self.sizes:
            raise UsageError(
                f"--size {self.size}: is not among --sizes {sizes_text(self.sizes)}; add it there "
                "or take one of them"
            )
        if self.control and self.placement:
            raise UsageError(
                "--placement: a frame under --control is one program and runs on one unit; use "
                "--compute-units"
            )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The programs that these settings need."""
        return CONTROLLED if self.control else STAGES if self.placement else WHOLE

    @property
    def function(self) -> str | None:
        """Which function of a package to run; None for the only one."""
        return f"size_{self.size}" if self.sizes else None

    def units(self, stage: str) -> str:
        """Compute units of one program, in coremltools' words."""
        if stage in STAGES and self.placement:
            return UNITS[self.placement[STAGES.index(stage)]]
        return self.compute_units or DEFAULT_UNITS

    def variant(self, stage: Stage = "frame") -> "Variant":
        """The program of one stage; runtime and compute units do not change it."""
        size = min(self.sizes) if self.sizes else self.size
        return Variant(size, self.attention, self.input, self.weights, stage, self.noise_seed)

    def identity(self) -> dict[str, str]:
        """What a built package is told apart by, in words; 'sizes' is all of them."""
        facts = {
            "sizes": "+".join(map(str, sorted(self.sizes or (self.size,)))),
            "attention": self.attention,
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
    """Whether it runs in a process of its own by default: Core ML's bridge holds the GIL."""
    assert isinstance(options, CoreMLOptions)
    return options.runtime == "coreml" or bool(options.placement)


def runs_here() -> bool:
    """Whether Core ML itself is here, so that it can be timed."""
    return sys.platform == "darwin"


def check_timed(options: BackendOptions) -> None:
    """Raise UsageError for times that would be no speed of Core ML."""
    assert isinstance(options, CoreMLOptions)
    if options.runtime == "reference":
        raise UsageError(
            "--backend coreml:runtime=reference: the interpreter's times are no speed of Core ML, "
            "so bench takes none of them; measure Core ML on macOS, or see what the program "
            "computes with `sdxs live --coreml-runtime reference`"
        )
    if not runs_here():
        raise UsageError(
            "--backend coreml: Core ML needs macOS, and bench takes no substitute for it; its "
            "operations are counted here all the same, with any --backend and --profile"
        )


def refuse_steps(checkpoint: Checkpoint) -> None:
    """Raise UsageError where a frame takes several steps: a program has one timestep built in."""
    if checkpoint.frame.steps > 1:
        raise UsageError(
            f"--steps {checkpoint.frame.steps}: a Core ML program takes one step, its timestep is "
            "built in; use --backend mlx"
        )
