"""Pictures that another program sends, received in a process of their own. The newest wins."""

import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import connection
from typing import Protocol, cast

import numpy as np

from ...backend import copies
from ...backend.process.child import settle_in
from ...backend.process.shared_frames import SharedFrames
from ...errors import SdxsError, SourceError, SourceLost, UsageError
from ..films.process import (
    Order,
    child_of,
    received,
    refusal,
    sent,
    shared,
    shared_by_parent,
)

LOOK_S = 0.1  # between answers while nothing comes


class Inlet(Protocol):
    """Receives pictures, in its process. name: what it is called in full."""

    name: str

    def receive(self, wait_s: float) -> np.ndarray | None:
        """Return the newest picture that was not returned, uint8 (H, W, 3) BGR; None: none came.

        Raises SourceLost where none will come any more.
        """

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """The child has found what it receives from."""

    name: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A picture lies in the shared memory, or waits for one of its shape; None: there is none."""

    shape: tuple[int, ...] | None


class Received:
    """A live source of pictures whose size may change."""

    fps, length, paced = 30.0, None, False

    def __init__(self, kind: str, spec: str, name: str) -> None:
        """Find the sender. Raises SourceError where there is none.

        kind: 'module:class' of an `Inlet` in this package, which takes a name. spec: for messages.
        """
        self._child = child_of(spec, _serve, kind, spec, name)
        self._end = weakref.finalize(self, self._child.end, Order.CLOSE)
        self._memory: SharedFrames | None = None
        self._shape: tuple[int, ...] | None = None
        self._slot = 0
        self._closed = False
        try:
            self.name = received(self._child, SourceError, Opened).name
        except SdxsError:
            self.close()
            raise

    def read(self) -> np.ndarray | None:
        """Wait for the next picture, valid until the next call; None once closed."""
        while not self._closed:
            self._slot = 1 - self._slot
            sent(self._child, SourceLost, self._slot)
            shape = received(self._child, SourceLost, Arrived).shape
            if shape is None:
                continue
            if shape != self._shape:
                self._memory, self._shape = shared(self._child, shape, made=True), shape
                received(self._child, SourceLost, Arrived)
            assert self._memory is not None
            picture = self._memory.made[self._slot]
            copies.count("source", picture.nbytes)
            return picture
        return None

    def close(self) -> None:
        """End the process; calling it again does nothing."""
        self._closed = True
        self._end()


def needing_package(spec: str, package: str, install: str) -> None:
    """Raise UsageError, with the remedy, where a package is not installed."""
    if find_spec(package) is None:
        raise UsageError(f"--source {spec}: {package} is not installed; {install}")


# The child's side.


def _serve(pipe: connection.Connection, kind: str, spec: str, name: str) -> None:
    settle_in()
    with suppress(EOFError, OSError):  # the parent has ended
        try:
            module, _, made = kind.partition(":")
            opener = getattr(import_module(module, __package__), made)
            inlet = cast(Callable[[str, str], Inlet], opener)(spec, name)
        except BaseException as error:  # the parent must receive every exception
            pipe.send(refusal(error))
            pipe.recv()  # the parent's last request
            return
        pipe.send(Opened(inlet.name))
        memory: SharedFrames | None = None
        shape: tuple[int, ...] | None = None
        while (slot := pipe.recv()) is not Order.CLOSE:
            try:
                picture = inlet.receive(LOOK_S)
            except Exception as error:
                pipe.send(refusal(error))
                continue
            if picture is not None:
                if memory is None or picture.shape != shape:
                    shape = picture.shape
                    pipe.send(Arrived(shape))  # the parent shares memory for it
                    memory = shared_by_parent(pipe, shape, made=True)
                np.copyto(memory.made[slot], picture)
            pipe.send(Arrived(None if picture is None else shape))
        inlet.close()
