"""Inlets that a child process of `Received` opens."""

import numpy as np

from sdxs.common.errors import SourceError, SourceLost


class Growing:
    """Pictures of levels 1 to 5, of which the third and fourth are larger; nothing in between."""

    def __init__(self, spec: str, name: str) -> None:
        self.name, self._number, self._silent = name, 0, False

    def receive(self, wait_s: float) -> np.ndarray | None:
        self._silent = not self._silent
        if self._silent:
            return None
        self._number += 1
        if self._number > 5:
            raise SourceLost("over")
        shape = (8, 6, 3) if self._number in (3, 4) else (4, 4, 3)
        return np.full(shape, self._number, np.uint8)

    def close(self) -> None:
        pass


class Absent(Growing):
    def __init__(self, spec: str, name: str) -> None:
        raise SourceError("nobody is there")
