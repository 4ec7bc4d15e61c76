"""A Backend in a child process: same protocol, same errors, frames in shared memory.

For a backend whose call holds the GIL (Core ML through coremltools), and for running two at once:
it cannot stall capture or display, and its memory is its own. Frames are pictures, unless a part of
a pipeline that passes other arrays on says so (`Plane`). Requests and answers of a few bytes
go over a pipe; frames lie in memory that both sides map and that has no name, so nothing is left
however either side dies. The child ignores Ctrl-C and SIGTERM, which reach the whole terminal
group: its parent decides when it ends, and it never outlives its parent.
"""

import _posixshmem  # what multiprocessing.shared_memory stands on
import math
import mmap
import os
import secrets
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from importlib import import_module
from multiprocessing import connection, reduction

import numpy as np

from ..checkpoint.find import Checkpoint
from ..errors import BackendError
from . import copies
from .child import CLOSE_TIMEOUT_S, Child, Done, Failure, Warned, forward_warnings, settle_in
from .description import Description
from .options import BackendOptions
from .protocol import Backend, FrameParams, MemoryUse, StageTimes, check_frame

__all__ = ["CLOSE_TIMEOUT_S", "HostedBackend", "Plane"]

LOAD_TIMEOUT_S = 600.0
SLOTS = 4  # most frames in flight
ALIGNMENT = 64  # bytes: a cache line


class Order(Enum):
    """A request that needs no more words."""

    LOAD = auto()
    MEMORY = auto()
    CLOSE = auto()


@dataclass(frozen=True, slots=True)
class Submit:
    """Take the frame in `slot`, with its edges or without.

    The only request without an answer: a failure waits for its Collect.
    """

    slot: int
    edges: bool = False


@dataclass(frozen=True, slots=True)
class Collect:
    """Write the oldest frame's picture into its `slot`; answered by StageTimes."""

    slot: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """Answers Order.LOAD."""

    depth: int
    description: Description


@dataclass(frozen=True, slots=True)
class Plane:
    """Shape and dtype of an array that goes through shared memory."""

    shape: tuple[int, ...]
    dtype: str = "uint8"  # of a picture

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def check(self, frame: np.ndarray) -> None:
        """Raise BackendError unless `frame` is such an array, C-contiguous."""
        if self.dtype == "uint8":
            check_frame(frame, self.shape)
        elif frame.dtype != self.dtype or frame.shape != self.shape or not frame.flags.c_contiguous:
            raise BackendError(
                f"frame is {frame.dtype} {frame.shape}; expected contiguous {self.dtype} "
                f"{self.shape}"
            )


Planes = tuple[Plane, Plane, Plane]  # what is given, what is made, edges
# Prompts and parameters need no envelope: the array and the FrameParams are the requests.
Request = Order | Submit | Collect | FrameParams | np.ndarray
Answer = Loaded | Done | StageTimes | MemoryUse | Warned | Failure


class HostedBackend:
    """Run `module:Class` in a spawned child. Raises what the backend raises; BackendError if the
    child dies.

    `collect` returns the time inside the backend proper; the way there and back comes on top.
    """

    def __init__(
        self,
        name: str,
        location: str,
        checkpoint: Checkpoint | None,
        options: BackendOptions,
        takes: Plane | None = None,
        gives: Plane | None = None,
    ) -> None:
        """Take what to run; no process is started yet. location: 'module:Class', as a
        `BackendSpec` has it.

        takes, gives: what `submit` and `collect` pass where that is no picture.
        """
        picture = Plane((options.size, options.size, 3))
        self.name = name
        self._planes = (takes or picture, gives or picture, Plane((options.size, options.size)))
        self.depth = 1
        self._location = location
        self._checkpoint = checkpoint
        self._options = options
        self._child: Child | None = None
        self._description = Description(name)
        self._in_flight: deque[int] = deque()
        self._free: list[int] = []

    def load(self) -> None:
        """Start the child and load the backend in it; returns when it is warm. Loading again
        starts afresh.
        """
        self.close()
        try:
            arrays = _Arrays.create(self._planes)
        except OSError as error:
            raise BackendError(
                f"{self.name}: no shared memory for its frames ({error}); end other programs or "
                "free /dev/shm"
            ) from error
        try:
            child = Child(
                self.name, _serve, arrays, self._location, self._checkpoint, self._options
            )
        finally:
            arrays.close_descriptor()
        self._child, self._arrays = child, arrays
        try:
            loaded = child.ask(Order.LOAD, Loaded, LOAD_TIMEOUT_S)
        except BaseException:
            self._child = None
            child.end(Order.CLOSE)
            raise
        self.depth, self._description = min(loaded.depth, SLOTS), loaded.description
        self._in_flight.clear()
        self._free = list(
            range(SLOTS)
        )  # used from the end, so that few frames in flight stay in the CPU's cache

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._running().ask(encoder_hidden_states, Done)

    def set_params(self, params: FrameParams) -> None:
        self._running().ask(params, Done)

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        child = self._running()
        self._planes[0].check(frame)
        if edges is not None:
            self._planes[2].check(edges)
        if not self._free:
            raise BackendError(
                f"{self.name}: {SLOTS} frames are in flight already; collect one first"
            )
        slot = self._free.pop()
        self._in_flight.append(slot)
        np.copyto(self._arrays.given[slot], frame)
        copies.count("to its process", frame.nbytes)
        if edges is not None:
            np.copyto(self._arrays.edges[slot], edges)
            copies.count("to its process", edges.nbytes)
        child.send(Submit(slot, edges is not None))

    def collect(self, out: np.ndarray) -> StageTimes:
        child = self._running()
        if not self._in_flight:
            raise BackendError(f"{self.name}: collect() without a submitted frame")
        slot = self._in_flight.popleft()
        self._free.append(slot)
        times = child.ask(Collect(slot), StageTimes)
        np.copyto(out, self._arrays.made[slot])
        copies.count("from its process", out.nbytes)
        return times

    def memory(self) -> MemoryUse:
        """Say what the child's backend holds now: nothing if there is none, or none any more."""
        if self._child is None or self._child.death:
            return MemoryUse(0, 0, 0, 0)
        return self._child.ask(Order.MEMORY, MemoryUse)

    def describe(self) -> Description:
        said = self._description
        return replace(said, processes=(*said.processes, ("process", self.pid)))

    @property
    def pid(self) -> int:
        """Process id of the child; 0 when there is none."""
        return self._child.pid if self._child else 0

    def close(self) -> None:
        """End the child, by force if it does not answer. Raises what the backend raised while
        closing.
        """
        child, self._child = self._child, None
        if child is None:
            return
        self.__dict__.pop("_arrays", None)  # the memory goes with its last mapping
        for answer in child.end(Order.CLOSE):
            if isinstance(answer, Warned):
                answer.warn_here()
            elif isinstance(answer, Failure):
                answer.raise_here()

    def _running(self) -> Child:
        if self._child is None:
            raise BackendError(f"{self.name}: backend is not loaded; call load() first")
        return self._child


class _Arrays:
    """Shared memory for the frames: in each of SLOTS what is given to the backend, what it makes,
    and edges.
    """

    def __init__(self, planes: Planes, descriptor: int) -> None:
        self._planes = planes
        self._descriptor = descriptor
        memory = np.frombuffer(
            mmap.mmap(descriptor, SLOTS * _slot_bytes(planes)), np.uint8
        ).reshape(SLOTS, -1)
        starts = (0, _aligned(planes[0].nbytes), _slot_bytes(planes[:2]))
        self.given, self.made, self.edges = (
            [
                row[start : start + plane.nbytes].view(plane.dtype).reshape(plane.shape)
                for row in memory
            ]
            for start, plane in zip(starts, planes, strict=True)
        )

    @classmethod
    def create(cls, planes: Planes) -> "_Arrays":
        """Allocate the memory; its name is gone before anybody can die and leave it behind. Raises
        OSError.
        """
        name = f"/sdxs-{secrets.token_hex(4)}"  # 14 characters fit every system's limit
        descriptor: int = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
        try:
            _posixshmem.shm_unlink(name)
            count = SLOTS * _slot_bytes(planes)
            os.ftruncate(descriptor, count)
            if hasattr(
                os, "posix_fallocate"
            ):  # where it exists a full /dev/shm is an error here and not SIGBUS later
                os.posix_fallocate(descriptor, 0, count)
            return cls(planes, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def __reduce__(self) -> "tuple[type[_Arrays], tuple[Planes, int]]":
        # Pickled on the way into a spawned process, which inherits the descriptor under the same
        # number.
        return _Arrays, (self._planes, reduction.DupFd(self._descriptor).detach())

    def close_descriptor(self) -> None:
        """Keep only the mapping, which ends with the arrays."""
        os.close(self._descriptor)


def _slot_bytes(planes: tuple[Plane, ...]) -> int:
    return sum(_aligned(plane.nbytes) for plane in planes)


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


# The child's side.


def _serve(
    pipe: connection.Connection,
    arrays: _Arrays,
    location: str,
    checkpoint: Checkpoint | None,
    options: BackendOptions,
) -> None:
    """Build the backend and do as asked, until told to close or the parent is gone."""
    settle_in()
    arrays.close_descriptor()
    host = _Host(pipe, arrays)
    with suppress(EOFError, OSError), pipe:  # the parent is gone; nobody is left to answer
        forward_warnings(host.send)
        request = pipe.recv()  # Order.LOAD
        try:
            module, attribute = location.split(":")
            backend: Backend = getattr(import_module(module), attribute)(checkpoint, options)
        except BaseException as error:  # whatever it is, the parent must hear of it
            host.send(Failure.of(error))
            return
        host.answer(backend, request)
        while request is not Order.CLOSE:
            request = pipe.recv()
            host.answer(backend, request)


class _Host:
    """Does what the parent asks, one request after the other."""

    def __init__(self, pipe: connection.Connection, arrays: _Arrays) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()  # a backend's threads may warn at any time
        self._arrays = arrays
        self._failed: dict[int, Failure] = {}

    def send(self, answer: Answer) -> None:
        with self._sending:
            self._pipe.send(answer)

    def answer(self, backend: Backend, request: Request) -> None:
        """Do it and send the answer; what a backend raises is one. Raises OSError if the parent is
        gone.
        """
        try:
            answer = self._do(backend, request)
        except BaseException as error:  # whatever it is, the parent must hear of it
            answer = Failure.of(error)
        if isinstance(request, Submit):
            if isinstance(answer, Failure):
                self._failed[request.slot] = answer
        else:
            self.send(answer)

    def _do(self, backend: Backend, request: Request) -> Answer:
        match request:
            case Submit(slot, edges):
                drawn = self._arrays.edges[slot] if edges else None
                backend.submit(self._arrays.given[slot], drawn)
            case Collect(slot):
                return self._failed.pop(slot, None) or backend.collect(self._arrays.made[slot])
            case FrameParams():
                backend.set_params(request)
            case np.ndarray():
                backend.set_conditioning(request)
            case Order.LOAD:
                backend.load()
                return Loaded(backend.depth, backend.describe())
            case Order.MEMORY:
                return backend.memory()
            case Order.CLOSE:
                backend.close()
        return Done()
