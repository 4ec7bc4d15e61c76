"""Let MLX's backend believe that there is a GPU, as on every Mac.

float16, `mx.compile`, one lane: what the code does for a GPU, computed by MLX on the CPU. Its
rounding in float16 is the CPU's.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

OPS = "sdxs.mlx_sdxs.fast.ops"


class _WithGpu:
    """Load the module that knows the device, then answer in its place."""

    def __init__(self, loader: object) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.on_gpu = lambda: True


class _Finder:
    """Find that one module."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == OPS else None
        if spec:
            spec.loader = _WithGpu(spec.loader)
        return spec


def show_gpu() -> None:
    """Let `on_gpu` of the module that all others import it from be true."""
    sys.meta_path.insert(0, _Finder)
