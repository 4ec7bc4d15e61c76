"""Arrays of Core ML predictions, which are never freed.

Core ML keeps its hold on an input after `predict` and drops it about a second later, from a thread
of its own and without the GIL, even after the model is gone (coremltools#2827, #2829, both open).
If that is the last reference, the process dies. So every array keeps references that nobody
returns, and many of them: a decrement without the GIL can overwrite an increment of another
thread. Closed runners give their arrays back to be used again, so reloads need no more memory.

They begin at a page of memory, which Apple recommends for results (MLPredictionOptions.h).
"""

import ctypes
import mmap
import threading
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

SPARE_REFERENCES = 10_000

_returned: defaultdict[tuple[tuple[int, ...], str], list[np.ndarray]] = defaultdict(list)
_lent: dict[int, np.ndarray] = {}  # every array of `lend`, by id
_lost: set[int] = set()
_lock = threading.RLock()  # a runner may be freed, and give back, within `lend`


def lend(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Return an array of zeros, contiguous, that stays valid until the process ends."""
    with _lock:
        waiting = _returned[shape, dtype]
        array = waiting.pop() if waiting else None
    if array is None:
        array = kept(_paged(shape, np.dtype(dtype)))
        with _lock:
            _lent[id(array)] = array
        return array
    array[...] = 0
    return array


def give_back(arrays: Iterable[np.ndarray]) -> None:
    """Let later runners use these arrays, which came from `lend`; those that are lost stay so."""
    with _lock:
        for array in arrays:
            if id(array) not in _lost:
                _returned[array.shape, array.dtype.name].append(array)


def lose(arrays: Iterable[np.ndarray]) -> None:
    """Never lend these again: a prediction that did not end may still read or write them."""
    with _lock:
        _lost.update(map(id, arrays))


def is_lent(array: np.ndarray) -> bool:
    """Tell whether this very array came from `lend`."""
    return id(array) in _lent


def kept(array: np.ndarray) -> np.ndarray:
    """Keep an array alive until the process ends, also while the interpreter shuts down."""
    spares = [array] * SPARE_REFERENCES
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(spares))
    return array


def _paged(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return zeros that begin at a page of memory."""
    size = int(np.prod(shape)) * dtype.itemsize
    room = np.zeros(size + mmap.PAGESIZE, np.uint8)
    start = -room.ctypes.data % mmap.PAGESIZE
    return room[start : start + size].view(dtype).reshape(shape)
