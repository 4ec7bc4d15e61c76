"""Backends that misbehave on purpose, beside the well-behaved fakes of `sdxs.common.testing.fakes`.

Each copies frames through and is built as `made(checkpoint, options, ...)`, so that a test can use
it directly. For a child process, or the command line's table of backends, the names in capitals
have their arguments filled in: "fake_backends:FAILS_ON_LOAD" is a location like any other.

A backend that is about to do what it is named for first writes its process id into a file named
after the moment, in the folder that the environment variable FAKE_BACKEND_MARKS names.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import StageTimes
from sdxs.common.errors import BackendError, PictureError, SdxsWarning
from sdxs.common.testing.fakes import ComputingBackend, GilBackend, SleepingBackend, StagedBackend

__all__ = ["ComputingBackend", "GilBackend", "SleepingBackend", "StagedBackend"]

MARKS = "FAKE_BACKEND_MARKS"


def mark(moment: str, pid: int | None = None) -> None:
    """Tell the test that `moment` has come; it sees a whole file or none."""
    if folder := os.environ.get(MARKS):
        partial_file = Path(folder) / f".{moment}"
        partial_file.write_text(str(pid or os.getpid()))
        partial_file.replace(Path(folder) / moment)


class SpoiltBackend(IdentityBackend):
    """Identity that renders no picture from the frames `bad`, counted from 0."""

    name = "spoilt"

    def __init__(
        self, checkpoint: object, options: BackendOptions, bad: Sequence[int] = (0,)
    ) -> None:
        super().__init__(checkpoint, options)
        self._bad, self._number = bad, -1

    def collect(self, out: np.ndarray) -> StageTimes:
        times = super().collect(out)
        self._number += 1
        if self._number in self._bad:
            out.fill(77)
            raise PictureError("spoilt: the picture is not finite; do this")
        return times


FIRST_SPOILT = SpoiltBackend


class MomentBackend(IdentityBackend):
    """Base: call `_come(moment)` on 'load', 'close', and 'frame' when `frame` is collected."""

    name = "fake"

    def __init__(
        self, checkpoint: object, options: BackendOptions, on: str = "frame", frame: int = 0
    ) -> None:
        super().__init__(checkpoint, options)
        self._on = on
        self._frame = frame
        self._count = 0

    def _come(self) -> None:
        raise NotImplementedError  # a subclass says what happens

    def _reach(self, moment: str) -> None:
        if moment == self._on:
            mark(moment)
            self._come()

    def load(self) -> None:
        self._reach("load")
        super().load()

    def collect(self, out: np.ndarray) -> StageTimes:
        if self._count == self._frame:
            self._reach("frame")
        self._count += 1
        return super().collect(out)

    def close(self) -> None:
        self._reach("close")
        super().close()


class FailingBackend(MomentBackend):
    """Raises on 'load', on 'frame' number 100, or on 'close'."""

    def __init__(
        self,
        checkpoint: object,
        options: BackendOptions,
        on: str = "frame",
        frame: int = 100,
        error: type[BaseException] = BackendError,
    ) -> None:
        super().__init__(checkpoint, options, on, frame)
        self._error = error

    def _come(self) -> None:
        raise self._error(f"fake: cannot do its {self._on}; this is a test")


class StuckBackend(MomentBackend):
    """Never returns from 'load', 'frame' or 'close'; holds the GIL meanwhile if told to."""

    def __init__(
        self,
        checkpoint: object,
        options: BackendOptions,
        on: str = "frame",
        frame: int = 0,
        hold_gil: bool = False,
    ) -> None:
        super().__init__(checkpoint, options, on, frame)
        self._hold_gil = hold_gil

    def _come(self) -> None:
        # Calls through PyDLL keep the GIL.
        library = (ctypes.PyDLL if self._hold_gil else ctypes.CDLL)(None)
        while True:
            library.sleep(3600)


class SuicidalBackend(MomentBackend):
    """Ends its process on frame number 3: with SIGKILL, or with an exit code."""

    def __init__(
        self,
        checkpoint: object,
        options: BackendOptions,
        frame: int = 3,
        exit_code: int | None = None,
    ) -> None:
        super().__init__(checkpoint, options, "frame", frame)
        self._exit_code = exit_code

    def _come(self) -> None:
        if self._exit_code is not None:
            os._exit(self._exit_code)
        os.kill(os.getpid(), signal.SIGKILL)


class LitteringBackend(StuckBackend):
    """Start a process that keeps our descriptors open; never return from the first frame."""

    def load(self) -> None:
        # A process of its own that ends by itself, should the test not come to end it.
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        self._litter = subprocess.Popen(command, close_fds=False)
        mark("litter", self._litter.pid)
        super().load()


class RefusingBackend(IdentityBackend):
    """Raises in `submit` of its second frame."""

    def __init__(self, checkpoint: object, options: BackendOptions) -> None:
        super().__init__(checkpoint, options)
        self._count = 0

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._count += 1
        if self._count == 2:
            raise BackendError("fake: cannot take its second frame; this is a test")
        super().submit(frame, edges)


class OddWarning(RuntimeWarning):
    """A category that whoever does not import this module does not know."""


class WarningBackend(IdentityBackend):
    """Warns on load, in every frame (from a thread of its own), and on close."""

    def load(self) -> None:
        super().load()
        warnings.warn("on load", SdxsWarning, stacklevel=1)

    def collect(self, out: np.ndarray) -> StageTimes:
        thread = threading.Thread(target=warnings.warn, args=("on a frame", SdxsWarning))
        thread.start()
        thread.join()
        return super().collect(out)

    def close(self) -> None:
        warnings.warn("on close", OddWarning, stacklevel=1)
        super().close()


class QuickStages(StagedBackend):
    """Three frames in flight; one alone takes 60 ms, one after the other comes every 20 ms."""

    stages_ms = (20.0, 20.0, 20.0)


FAILS_ON_LOAD = partial(FailingBackend, on="load")
FAILS_ON_FRAME = partial(FailingBackend, on="frame", frame=3)
FAILS_ON_CLOSE = partial(FailingBackend, on="close")
FAILS_FOREIGN = partial(FailingBackend, on="frame", frame=0, error=KeyError)
EXITS = partial(FailingBackend, on="frame", frame=0, error=SystemExit)
STUCK_ON_LOAD = partial(StuckBackend, on="load")
STUCK_ON_FRAME = partial(StuckBackend, on="frame")
STUCK_ON_CLOSE = partial(StuckBackend, on="close")
HOLDS_GIL_ON_LOAD = partial(StuckBackend, on="load", hold_gil=True)
HOLDS_GIL_ON_FRAME = partial(StuckBackend, on="frame", hold_gil=True)
HOLDS_GIL_ON_CLOSE = partial(StuckBackend, on="close", hold_gil=True)
ENDS_WITH_7 = partial(SuicidalBackend, exit_code=7)
SLOW_GIL = partial(GilBackend, ms=1000)
