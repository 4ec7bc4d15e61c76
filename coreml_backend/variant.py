"""The description of a Core ML program to build; imports no coremltools, which is slow."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..common.errors import UsageError

AttentionForm = Literal["sdpa", "matmul", "split_einsum"]
Compression = Literal["float16", "int8", "palettize8", "palettize6", "palettize4", "palettize2"]
InputForm = Literal["float32", "image"]
Stage = Literal["frame", "controlled", "encode", "unet", "decode"]


@dataclass(frozen=True, slots=True)
class Variant:
    """The program to build from a checkpoint; equal values give equal programs.

    size: side of the picture in pixels. attention: 'sdpa' needs macOS 15; 'matmul' and
    'split_einsum' (layout of the Neural Engine) need macOS 14. input: pictures as images, or as
    float32 (1, 3, S, S) in 0..255. weights: storage of large tensors. stage: 'controlled' is the
    whole frame with the ControlNet. noise_seed: noise to fold in; None makes noise an input.
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
