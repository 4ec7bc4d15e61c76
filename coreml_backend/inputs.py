"""Input arrays of Core ML predictions, which are never freed.

Core ML keeps its hold on an input after `predict` and drops it about a second later, from a thread
of its own and without the GIL, even after the model is gone (coremltools#2827, #2829, both open).
If that is the last reference, the process dies. So every array keeps references that nobody
returns, and many of them: a decrement without the GIL can overwrite an increment of another
thread. Closed runners give their arrays back to be used again, so reloads need no more memory.
"""

import ctypes
import threading
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

SPARE_REFERENCES = 10_000

_returned: defaultdict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
_lock = threading.RLock()  # a runner may be freed, and give back, within `lend`


def lend(shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of zeros, float32, contiguous, that stays valid until the process ends."""
    with _lock:
        array = _returned[shape].pop() if _returned[shape] else None
    if array is None:
        return kept(np.zeros(shape, np.float32))
    array[...] = 0
    return array


def give_back(arrays: Iterable[np.ndarray]) -> None:
    """Let later runners use these arrays, which came from `lend`."""
    with _lock:
        for array in arrays:
            _returned[array.shape].append(array)


def kept(array: np.ndarray) -> np.ndarray:
    """Keep an array alive until the process ends, also while the interpreter shuts down."""
    spares = [array] * SPARE_REFERENCES
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(spares))
    return array
