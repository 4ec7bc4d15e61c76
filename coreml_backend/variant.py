"""Which Core ML program to build, as a value; free of coremltools, which is slow to import."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..common.errors import UsageError

AttentionForm = Literal["sdpa", "matmul", "split_einsum"]
Compression = Literal["float16", "int8", "palettize8", "palettize6", "palettize4", "palettize2"]
InputForm = Literal["float32", "image"]
Stage = Literal["frame", "controlled", "encode", "unet", "decode"]


@dataclass(frozen=True, slots=True)
class Variant:
    """Which program to build; everything that changes it apart from the checkpoint.

    size: side of the picture. attention: 'sdpa' needs macOS 15, 'matmul' and 'split_einsum' (the
    Neural Engine's layout) run on macOS 14. input: whether pictures go in and out as images or as
    float32 (1, 3, S, S) in 0..255. weights: how large tensors are stored. stage: 'controlled' is
    the whole frame with the checkpoint's ControlNet in it. noise_seed: builds the noise in.
    """

    size: int
    attention: AttentionForm = "sdpa"
    input: InputForm = "image"
    weights: Compression = "float16"
    stage: Stage = "frame"
    noise_seed: int | None = None

    def __post_init__(self) -> None:
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
