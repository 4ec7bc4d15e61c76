"""Pictures that stay in the host's memory, on CUDA: MLX hands them over in managed memory, which else moves page by page.

Managed memory follows whoever touches it, by page faults: a 512 x 512 picture in and out cost 1.5 ms on an H200 with
them and 0.3 without, a frame of several in flight 4 to 11 % (docs/results/levers-gpu.json). With this advice the GPU
reads and writes a picture where it is. Elsewhere than on CUDA nothing is done.
"""

import ctypes
import functools

import numpy as np

from ..common.errors import BackendError
from .ops import on_cuda

_PREFERRED_LOCATION, _ACCESSED_BY = 3, 5  # CUmem_advise
_DEVICE, _HOST = 1, 2  # CUmemLocationType

_advised: set[tuple[int, int]] = set()


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


def keep_on_host(array: np.ndarray) -> None:
    """Ask CUDA to leave what `array` views, memory of MLX, where the host is. Raises BackendError if it refuses.

    Once for each piece of memory: MLX uses it again and again.
    """
    driver = _driver()
    place = (array.ctypes.data, array.nbytes) if driver else None
    if driver and place not in _advised:
        for advice, kind in ((_PREFERRED_LOCATION, _HOST), (_ACCESSED_BY, _DEVICE)):
            code = driver.cuMemAdvise_v2(ctypes.c_void_p(place[0]), ctypes.c_size_t(place[1]), advice, _Location(kind, 0))
            if code:
                raise BackendError(f"mlx: cuMemAdvise failed with CUDA's error {code}; update NVIDIA's driver")
        _advised.add(place)


def forget() -> None:
    """Start anew: MLX has given its memory back."""
    _advised.clear()


@functools.cache
def _driver() -> ctypes.CDLL | None:
    """CUDA's driver, if MLX computes with it."""
    return ctypes.CDLL("libcuda.so.1") if on_cuda() else None
