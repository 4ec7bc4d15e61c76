"""Load an optimised BLAS for MLX's CPU build on Linux.

MLX's CPU wheel links a reference BLAS of 3 to 7 GFLOP/s on two cores. An OpenBLAS loaded with
RTLD_GLOBAL before `mlx.core` replaces its `cblas_*` symbols: 80 to 400 GFLOP/s. This module never
imports MLX, and `mlx_sdxs/__init__.py` calls it first. Delete when the wheel has an optimised BLAS.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import BackendError, SdxsWarning


@dataclass(frozen=True, slots=True)
class Blas:
    """The library in use: its path, its origin and the kernels (core) that it chose."""

    path: str
    origin: str
    core: str


_loaded: Blas | None = None
_library: ctypes.CDLL | None = None


def loaded() -> Blas | None:
    """Return the library that `load` loaded, or None (macOS, CUDA build, nothing found)."""
    return _loaded


def share_among(callers: int) -> None:
    """Divide the cores among `callers` threads that multiply at once."""
    if _library is not None and hasattr(_library, "openblas_set_num_threads"):
        _library.openblas_set_num_threads(max(1, (os.cpu_count() or 1) // callers))


def is_needed() -> bool:
    """Tell whether this is Linux with MLX's CPU build, the only one that multiplies on the CPU."""
    if sys.platform != "linux":
        return False
    try:
        importlib.metadata.version("mlx-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def load() -> None:
    """Load the best available BLAS, once; warn with the remedy if there is none.

    Order: $SDXS_BLAS, cmeel-openblas, the system's libopenblas, the copy in the OpenCV wheel. Does
    nothing in a process with PyTorch, because it would also replace PyTorch's products and slow
    them down. Raises BackendError only if $SDXS_BLAS is set and cannot be loaded.
    """
    global _loaded, _library
    if _loaded is not None or "torch" in sys.modules or not is_needed():
        return
    if "mlx.core" in sys.modules:
        warnings.warn(
            "mlx was imported before sdxs.mlx_sdxs, so its slow reference BLAS stays in use; "
            "import sdxs.mlx_sdxs first",
            SdxsWarning,
            stacklevel=3,
        )
        return
    for origin, path in candidates():
        try:
            library = _open(path)
        except OSError as error:
            if origin == "$SDXS_BLAS":
                raise BackendError(
                    f"$SDXS_BLAS={path} cannot be loaded ({error}); name a libopenblas.so or unset "
                    "it"
                ) from None
            continue  # cmeel's copy, for one, needs libgfortran5 from the system
        _loaded, _library = Blas(str(path), origin, _core_name(library)), library
        return
    warnings.warn(
        "no optimised BLAS found: MLX on this CPU will be 20 to 40 times slower; "
        "`pip install opencv-python-headless` or `apt install libopenblas0` brings one",
        SdxsWarning,
        stacklevel=3,
    )


def candidates() -> Iterator[tuple[str, str]]:
    """Yield (origin, path or soname) in order of preference."""
    if os.environ.get("SDXS_BLAS"):
        yield "$SDXS_BLAS", os.environ["SDXS_BLAS"]
    for package, origin, pattern in (
        ("cmeel", "cmeel-openblas", "cmeel.prefix/lib/libopenblas.so*"),
        (None, "system", "libopenblas.so.0"),
        ("cv2", "opencv wheel", "opencv_python*.libs/libopenblas*.so*"),
    ):
        if package is None:
            yield origin, pattern
            continue
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for path in sorted(Path(spec.origin).parent.parent.glob(pattern)):
                yield origin, str(path)


def _open(path: str) -> ctypes.CDLL:
    # OpenBLAS 0.3.15 of the OpenCV wheel uses SSE kernels on chips it does not know (Zen 5: 79
    # instead of 399 GFLOP/s). It reads the variable only while loading. Delete at 0.3.22 or later.
    core = _core_for(_cpu_flags())
    if core is None or "OPENBLAS_CORETYPE" in os.environ:
        return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    os.environ["OPENBLAS_CORETYPE"] = core
    try:
        return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    finally:
        del os.environ["OPENBLAS_CORETYPE"]


def _core_for(flags: set[str]) -> str | None:
    if flags >= {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}:
        return "SkylakeX"
    return "Haswell" if flags >= {"avx2", "fma"} else None


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split())
    return set()


def _core_name(library: ctypes.CDLL) -> str:
    try:
        get = library.openblas_get_corename
    except AttributeError:
        return "unknown"
    get.restype = ctypes.c_char_p
    return str(get().decode())
