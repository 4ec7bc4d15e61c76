"""What only the Core ML backend is told: runtime, compute units, the form of its programs."""

from dataclasses import dataclass

from ..common.backend.protocol import BackendOptions
from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError
from .variant import Variant

RUNTIMES = ("coreml", "reference")
COMPUTE_UNITS = ("cpu_and_gpu", "cpu_and_ne", "all", "cpu_only")
ATTENTIONS = ("sdpa", "matmul", "split_einsum")
WEIGHTS = ("float16", "int8", "palettize8", "palettize6", "palettize4", "palettize2")
INPUTS = ("float32", "image")
STAGES = ("encode", "unet", "decode")
WHOLE = ("frame",)
CONTROLLED = ("controlled",)
UNITS = {
    "ne": "cpu_and_ne",
    "gpu": "cpu_and_gpu",
    "cpu": "cpu_only",
    "all": "all",
}  # as --placement spells them
_CHOICES = {
    "runtime": RUNTIMES,
    "compute_units": COMPUTE_UNITS,
    "attention": ATTENTIONS,
    "weights": WEIGHTS,
    "input": INPUTS,
}
_FREE = ("sizes", "placement", "noise_seed", "control")


@dataclass(frozen=True, slots=True)
class CoreMLOptions:
    """Settings of one backend; `size` in pixels.

    attention: 'sdpa' needs macOS 15, 'matmul' macOS 14, 'split_einsum' is the Neural Engine's
    layout. weights: 'float16', or compressed, which costs accuracy that `sdxs convert` prints.
    input: pictures as float32 arrays or as images. sizes: all that one package holds; empty for
    `size` alone. noise_seed: builds that seed's noise in. placement: compute units of encode, unet
    and decode, or empty for one program from picture to picture on `compute_units`. control: the
    program with the ControlNet in it.
    """

    size: int
    runtime: str = "coreml"
    compute_units: str = "cpu_and_gpu"
    attention: str = "sdpa"
    weights: str = "float16"
    input: str = "float32"
    sizes: tuple[int, ...] = ()
    noise_seed: int | None = None
    placement: tuple[str, ...] = ()
    control: bool = False

    @classmethod
    def parse(cls, options: BackendOptions) -> "CoreMLOptions":
        """Read `BackendOptions.settings`. Raises UsageError for an unknown name or value, or
        another dtype.
        """
        if options.dtype not in ("auto", "float16"):
            raise UsageError(
                f"--dtype {options.dtype}: Core ML programs compute in float16; use --dtype auto"
            )
        chosen = dict(options.settings)
        for name, value in chosen.items():
            if name not in (*_CHOICES, *_FREE):
                raise UsageError(
                    f"coreml: unknown setting {name!r}; known are {', '.join((*_CHOICES, *_FREE))}"
                )
            if name in _CHOICES and value not in _CHOICES[name]:
                flag = "--coreml-runtime" if name == "runtime" else f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} {value}: expected one of {', '.join(_CHOICES[name])}")
        if "placement" in chosen and "compute_units" in chosen:
            raise UsageError(
                "--placement and --compute-units: each says where the program runs; give one of "
                "them"
            )
        sizes = _parse_sizes(chosen.pop("sizes", ""), options.size)
        placement = parse_placement(chosen.pop("placement", ""))
        seed = chosen.pop("noise_seed", "")
        if seed and not seed.isdecimal():
            raise UsageError(f"coreml: noise_seed {seed!r}: expected a whole number")
        control = chosen.pop("control", "") == "yes"
        if control and placement:
            raise UsageError(
                "--placement: a frame under --control is one program and runs on one unit; use "
                "--compute-units"
            )
        seeded = int(seed) if seed else None
        return cls(
            options.size,
            **chosen,
            sizes=sizes,
            placement=placement,
            noise_seed=seeded,
            control=control,
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """The programs that these settings need."""
        return CONTROLLED if self.control else STAGES if self.placement else WHOLE

    @property
    def function(self) -> str | None:
        """Which function of a package to run; None for the only one."""
        return f"size_{self.size}" if self.sizes else None

    def units(self, stage: str) -> str:
        """Compute units of one program, in coremltools' words."""
        return (
            UNITS[self.placement[STAGES.index(stage)]]
            if stage in STAGES and self.placement
            else self.compute_units
        )

    def variant(self, stage: str = "frame") -> Variant:
        """The program of one stage; runtime and compute units do not change it."""
        size = self.sizes[0] if self.sizes else self.size
        return Variant(size, self.attention, self.input, self.weights, stage, self.noise_seed)

    def identity(self) -> dict[str, str]:
        """What a built package is told apart by, in words; 'sizes' is all of them."""
        facts = {
            "sizes": "+".join(map(str, self.sizes or (self.size,))),
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


def _parse_sizes(text: str, size: int) -> tuple[int, ...]:
    if not text:
        return ()
    parts = text.split(",")
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise UsageError(f"--sizes {text}: expected different sides in pixels, as 256,512")
    sizes = tuple(sorted(map(int, parts)))
    if size not in sizes:
        raise UsageError(
            f"--size {size}: is not among --sizes {text}; add it there or take one of them"
        )
    return sizes


def refuse_steps(checkpoint: Checkpoint) -> None:
    """Raise UsageError where a frame takes several steps: a program has one timestep built in."""
    if checkpoint.frame.steps > 1:
        raise UsageError(
            f"--steps {checkpoint.frame.steps}: a Core ML program takes one step, its timestep is "
            "built in; use --backend mlx"
        )
