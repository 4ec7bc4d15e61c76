"""What the PyTorch peer is built with. Imports nothing of PyTorch: bench reads it for messages."""

from dataclasses import dataclass
from typing import Literal

from ...common.backend.options import BackendOptions
from ...common.settings import setting


@dataclass(frozen=True, slots=True)
class TorchOptions(BackendOptions):
    """Settings of one PyTorch peer."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = setting(
        "auto", "precision; auto is float16 on a GPU and float32 on a CPU"
    )
    mode: Literal["eager", "channels_last", "compile", "graph", "compile+graph"] = setting(
        "channels_last", "what a frame is made faster by; a graph needs CUDA"
    )
