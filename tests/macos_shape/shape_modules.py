"""What modules find on a Mac: a BLAS without loading one, VideoToolbox, a GPU if one is asked for.

macOS has Accelerate. Here Linux's OpenBLAS takes its place unseen, or products would take 20 times
as long. A GPU means what the code does for one (float16, `mx.compile`, one lane), computed by MLX
on the CPU; the rounding in float16 is the CPU's. VideoToolbox' encoders are those of Linux.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

import shape_kernel


def _load_blas_unseen(module: ModuleType) -> None:
    """Let a second copy of the module load a library as on Linux; the module knows of none."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_of_linux", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = copy  # dataclasses look there
    spec.loader.exec_module(copy)
    copy.sys = sys
    with shape_kernel.shown():  # it reads /proc/cpuinfo
        copy.load()


def _show_gpu(module: ModuleType) -> None:
    module.on_gpu = lambda: True


def _show_videotoolbox(module: ModuleType) -> None:
    module.VIDEOTOOLBOX = module.SOFTWARE


class _Then:
    """A loader that changes what it has loaded."""

    def __init__(self, loader: object, change: Callable[[ModuleType], None]) -> None:
        self._loader, self._change = loader, change

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)


class _Finder:
    """Find the modules that are to be changed."""

    def __init__(self, gpu: bool) -> None:
        self._changes = {
            "sdxs.mlx_sdxs.blas": _load_blas_unseen,
            "sdxs.common.io.films.formats": _show_videotoolbox,
        }
        if gpu:  # the module that all others import `on_gpu` from
            self._changes["sdxs.mlx_sdxs.fast.ops"] = _show_gpu

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        change = self._changes.get(name)
        spec = PathFinder.find_spec(name, path, target) if change else None
        if spec:
            spec.loader = _Then(spec.loader, change)
        return spec


def show_mac(gpu: bool) -> None:
    """Change the modules when they are imported."""
    sys.meta_path.insert(0, _Finder(gpu))
