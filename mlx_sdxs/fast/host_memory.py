"""Keep pictures in host memory on CUDA, where MLX allocates managed memory.

Managed memory migrates on access, page by page, at the price of a fault each. With this advice the
GPU accesses a picture in host memory. A 512 x 512 picture in and out took 1.5 ms on an H200 and
now takes 0.3 (docs/results/kernel-gpu.json). Batches of four gained 6 to 11 % (levers-gpu.json).
Without CUDA nothing happens.
"""

import ctypes
import functools

import numpy as np

from ...common.errors import BackendError
from .ops import on_cuda

_PREFERRED_LOCATION, _ACCESSED_BY = 3, 5  # CUmem_advise
_DEVICE, _HOST = 1, 2  # CUmemLocationType

_advised: set[tuple[int, int]] = set()


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


def keep_on_host(array: np.ndarray) -> None:
    """Ask CUDA to keep the memory that `array` views in the host.

    Raises BackendError if CUDA refuses. MLX reuses its buffers, so each is advised once. A
    buffer freed and allocated again at the same address has no advice, which is only slower.
    """
    place, driver = (array.ctypes.data, array.nbytes), _driver()
    if driver is None or place in _advised:
        return
    for advice, kind in ((_PREFERRED_LOCATION, _HOST), (_ACCESSED_BY, _DEVICE)):
        location = _Location(kind, 0)  # MLX computes on the first GPU
        code = driver.cuMemAdvise_v2(
            ctypes.c_void_p(place[0]), ctypes.c_size_t(place[1]), advice, location
        )
        if code:
            raise BackendError(
                f"mlx: CUDA refuses advice on memory (error {code}); set pictures=moving"
            )
    _advised.add(place)


def forget() -> None:
    """Forget all advised buffers, after MLX has freed its memory."""
    _advised.clear()


@functools.cache
def _driver() -> ctypes.CDLL | None:
    """Return CUDA's driver if MLX computes with it.

    Raises BackendError for a driver older than 12.2.
    """
    if not on_cuda():
        return None
    driver = ctypes.CDLL("libcuda.so.1")
    if not hasattr(driver, "cuMemAdvise_v2"):
        raise BackendError(
            "mlx: NVIDIA's driver is older than CUDA 12.2; update it, or set pictures=moving"
        )
    return driver
