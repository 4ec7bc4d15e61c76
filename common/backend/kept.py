"""A backend that stays loaded from one session to the next."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from ..errors import PictureError
from .description import Description
from .process.hosted import HostedBackend
from .protocol import FrameParams, MemoryUse, StageTimes


class KeptBackend:
    """Load a hosted backend once for many sessions, each of which calls `load` and `close`.

    A process of its own lets every session drive it from another thread. Frames that a session
    leaves in flight are collected and thrown away. `end` closes the backend.
    """

    def __init__(self, inner: HostedBackend, fresh: bool = False) -> None:
        """fresh: load anew for every session, whose first frames must not remember the last one."""
        self.name = inner.name
        self.depth = inner.depth
        self._inner = inner
        self._fresh = fresh
        self._loaded = False
        self._in_flight = 0
        self._scrap: np.ndarray | None = None

    def load(self) -> None:
        if not self._loaded or self._fresh:
            self._loaded = False
            self._inner.load()
            self._loaded, self._in_flight = True, 0
        self.depth = self._inner.depth

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._inner.set_conditioning(encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        self._inner.set_params(params)

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._inner.submit(frame, edges)
        self._in_flight += 1
        if self._scrap is None:
            self._scrap = np.empty_like(frame)

    def collect(self, out: np.ndarray) -> StageTimes:
        try:
            times = self._inner.collect(out)
        except PictureError:
            self._in_flight -= 1  # the frame is done, and the backend goes on
            raise
        except BaseException:
            self._loaded = False  # whatever failed, the next session starts anew
            raise
        self._in_flight -= 1
        return times

    def memory(self) -> MemoryUse:
        return self._inner.memory()

    def describe(self) -> Description:
        return self._inner.describe()

    def close(self) -> None:
        """End a session; the backend stays."""
        while self._loaded and self._in_flight and self._scrap is not None:
            with suppress(PictureError):
                self.collect(self._scrap)

    def end(self) -> None:
        """Free everything; a second call does nothing."""
        self._loaded = False
        self._inner.close()


def end_all(backends: Sequence[KeptBackend]) -> None:
    """Free every backend."""
    for each in backends:
        each.end()
