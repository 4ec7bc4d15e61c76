"""Check that MLX runs here, on which device, and with which BLAS."""

import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib import metadata

from ..common.doctor import Check
from ..common.errors import WeightsError
from ..common.system import macos_version
from . import blas
from .fast.conv_table import Maker, mismatch, read_table, table_path, unit

BLAS_SIDE = 1024
SLOW_GFLOPS = 20.0


def checks() -> list[Check]:
    """Return the checks of MLX, of its GPU and, if it multiplies on the CPU, of its BLAS."""
    try:
        import mlx.core as mx
    except ImportError as error:
        return [Check("mlx", False, f"cannot be imported ({error})", _install())]
    doubled = (mx.arange(3) * 2).tolist()
    if doubled != [0, 2, 4]:
        return [
            Check(
                "mlx",
                False,
                f"computes 2 * [0, 1, 2] = {doubled} on {mx.default_device()}",
                _install(),
            )
        ]
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    found = [
        Check(
            "mlx",
            True,
            f"mlx {metadata.version('mlx')}, computing on the {'GPU' if on_gpu else 'CPU'}",
        ),
        _gpu(on_gpu),
    ]
    if on_gpu and not mx.cuda.is_available():
        found.append(matrix_unit(mx.device_info()))
    return found if on_gpu or not blas.is_needed() else [*found, _blas()]


def _gpu(on_gpu: bool) -> Check:
    import mlx.core as mx

    if not on_gpu:
        finding = (
            f"none that MLX can use; {os.cpu_count()} CPU cores run the demo model, SDXS-512 takes "
            "seconds a frame"
        )
        return Check(
            "gpu",
            None,
            finding,
            "an Apple silicon Mac; on Linux with an NVIDIA GPU: pip install 'mlx[cuda]'",
        )
    info = mx.device_info()
    name = str(info.get("device_name", "unnamed"))
    working_set = int(info.get("max_recommended_working_set_size", 0) or info.get("memory_size", 0))
    return Check(
        "gpu", True, f"{name}, {working_set / 1e9:.1f} GB for models" if working_set else name
    )


def matrix_unit(info: Mapping[str, object]) -> Check:
    """Tell whether an M5's matrix unit is there, and whether convolutions are products for it.

    info: of `mx.device_info()`. Whether a run used the unit is not to be known: only times tell.
    """
    name, here = "matrix unit", Maker.of(info, metadata.version("mlx"))
    found = unit(str(info.get("architecture", "")), macos_version())
    again = "run `sdxs mac-check`, which measures every convolution and writes the table"
    try:
        table = read_table()
    except WeightsError as error:
        return Check(name, None, f"{found}; {error}", again)
    if table and (why := mismatch(table, here)):
        return Check(name, None, f"{found}; the table of convolutions is unused: {why}", again)
    if table:
        counted = f"{table.as_products} of {len(table.forms)} shapes of convolutions are products"
        return Check(name, True, f"{found}; {counted} by {table_path()}")
    if found != "there":
        return Check(name, True, f"{found}; convolutions are MLX's own")
    finding = f"{found}, for products and attention; convolutions as products are not measured"
    return Check(name, None, finding, again)


def _blas() -> Check:
    library, speed = blas.loaded(), _gflops()
    finding = f"{library.origin} ({library.core})" if library else "MLX's reference BLAS"
    finding += f", {speed:.0f} GFLOP/s at {BLAS_SIDE} x {BLAS_SIDE}"
    if library is None:
        return Check(
            "blas", None, finding, "pip install opencv-python-headless, or apt install libopenblas0"
        )
    if speed < SLOW_GFLOPS:
        return Check(
            "blas",
            None,
            finding,
            "close other programs that compute, or name another libopenblas.so in $SDXS_BLAS",
        )
    return Check("blas", True, finding)


def _gflops() -> float:
    """Return the best GFLOP/s of three float32 matrix products, after one warm-up."""
    import mlx.core as mx

    a = mx.ones((BLAS_SIDE, BLAS_SIDE))
    mx.eval(a @ a)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        mx.eval(a @ a)
        times.append(time.perf_counter() - began)
    return 2 * BLAS_SIDE**3 / min(times) / 1e9


def _install() -> str:
    if sys.platform == "darwin":
        if platform.machine() != "arm64":
            return "MLX needs Apple silicon and an arm64 Python"
        return "pip install mlx, on macOS 14 or later"
    return "pip install 'mlx[cpu]', or 'mlx[cuda]' with an NVIDIA GPU"
