"""A backend in a child process: same protocol, same errors, frames in shared memory.

Used for a backend whose call holds the GIL (Core ML through coremltools), and for two backends at
once. It cannot stall capture or display, and its memory is separate. Frames are pictures; a stage
of a pipeline may pass other arrays (`Plane`). Requests and answers of a few bytes go over a pipe.
Frames lie in unnamed shared memory, so a crash of either side leaves nothing behind. The child
ignores Ctrl-C and SIGTERM, which reach the whole terminal group. Its parent decides when it ends,
and it never outlives its parent.
"""

import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from importlib import import_module
from multiprocessing import connection

import numpy as np

from ...checkpoint.find import Checkpoint
from ...errors import BackendError
from .. import copies
from ..description import Description
from ..options import BackendOptions
from ..protocol import Backend, FrameParams, MemoryUse, StageTimes
from .child import CLOSE_TIMEOUT_S, Child, forward_warnings, settle_in
from .messages import Done, Failure, Warned
from .shared_frames import SLOTS, Plane, SharedFrames

__all__ = ["CLOSE_TIMEOUT_S", "HostedBackend"]

LOAD_TIMEOUT_S = 3600.0  # only a load that hangs takes longer; Ctrl-C ends the wait


class Order(Enum):
    """A request without arguments."""

    LOAD = auto()
    MEMORY = auto()
    CLOSE = auto()


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit the frame in `slot`, with or without its edges.

    The only request without an answer: its Collect reports a failure.
    """

    slot: int
    edges: bool = False


@dataclass(frozen=True, slots=True)
class Collect:
    """Write the oldest frame's output into its `slot`; the answer is StageTimes."""

    slot: int


@dataclass(frozen=True, slots=True)
class LoadAnswer:
    """Answer to Order.LOAD."""

    depth: int
    description: Description


# encoder_hidden_states and FrameParams are sent as they are, without a wrapper class
Request = Order | Submit | Collect | FrameParams | np.ndarray
Answer = LoadAnswer | Done | StageTimes | MemoryUse | Warned | Failure


class HostedBackend:
    """Run the backend `module:Class` in a spawned child process.

    Raises the backend's exceptions, and BackendError if the child dies. `collect` returns the time
    inside the backend, without the transfer to and from the child.
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
        """Store the backend to run; `load` starts its process.

        location: 'module:Class', as in `BackendSpec`. takes, gives: input of `submit` and output of
        `collect`, by default pictures.
        """
        shape = options.size.shape
        picture = Plane((*shape, 3))
        self.name = name
        self._planes = (takes or picture, gives or picture, Plane(shape))
        self.depth = 1
        self._location = location
        self._checkpoint = checkpoint
        self._options = options
        self._child: Child | None = None
        self._description = Description(name)
        self._in_flight: deque[int] = deque()
        self._free: list[int] = []

    def load(self) -> None:
        """Start the child, load the backend in it and wait for its warm-up.

        A second call starts a new child. Raises BackendError.
        """
        self.close()
        try:
            arrays = SharedFrames.create(self._planes)
        except OSError as error:
            raise BackendError(
                f"{self.name}: no shared memory for its frames ({error}); end other programs or "
                "free /dev/shm"
            ) from error
        try:
            child = Child(
                self.name,
                _serve,
                arrays,
                self._location,
                self._checkpoint,
                self._options,
                remedies=self._options.remedies(),
            )
        finally:
            arrays.close_descriptor()
        self._child, self._arrays = child, arrays
        try:
            loaded = child.ask(Order.LOAD, LoadAnswer, LOAD_TIMEOUT_S)
        except BaseException:
            self._child = None
            child.end(Order.CLOSE)
            raise
        self.depth, self._description = min(loaded.depth, SLOTS), loaded.description
        self._in_flight.clear()
        # used from the end: few frames in flight then stay in the CPU's cache
        self._free = list(range(SLOTS))

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
        """Return the memory of the child's backend; zeros without a live child."""
        if self._child is None or self._child.death:
            return MemoryUse(0, 0, 0, 0)
        return self._child.ask(Order.MEMORY, MemoryUse)

    def describe(self) -> Description:
        said = self._description
        return replace(said, processes=(*said.processes, ("process", self.pid)))

    @property
    def pid(self) -> int:
        """The process id of the child; 0 without a child."""
        return self._child.pid if self._child else 0

    def close(self) -> None:
        """End the child, by force if it does not answer.

        Raises the backend's exception from its own `close`.
        """
        child, self._child = self._child, None
        if child is None:
            return
        self.__dict__.pop("_arrays", None)  # the last mapping frees the memory
        for answer in child.end(Order.CLOSE):
            if isinstance(answer, Warned):
                answer.warn_here()
            elif isinstance(answer, Failure):
                answer.raise_here()

    def _running(self) -> Child:
        if self._child is None:
            raise BackendError(f"{self.name}: backend is not loaded; call load() first")
        return self._child


# The child's side.


def _serve(
    pipe: connection.Connection,
    arrays: SharedFrames,
    location: str,
    checkpoint: Checkpoint | None,
    options: BackendOptions,
) -> None:
    """Build the backend and serve requests until Order.CLOSE or the end of the parent."""
    settle_in()
    arrays.close_descriptor()
    host = _Host(pipe, arrays)
    with suppress(EOFError, OSError), pipe:  # the parent has ended
        forward_warnings(host.send)
        request = pipe.recv()  # Order.LOAD
        try:
            module, attribute = location.split(":")
            backend: Backend = getattr(import_module(module), attribute)(checkpoint, options)
        except BaseException as error:  # the parent must receive every exception
            host.send(Failure.of(error))
            return
        host.answer(backend, request)
        while request is not Order.CLOSE:
            request = pipe.recv()
            host.answer(backend, request)


class _Host:
    """Serve the parent's requests, one after the other."""

    def __init__(self, pipe: connection.Connection, arrays: SharedFrames) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()  # a backend's threads may warn at any time
        self._arrays = arrays
        self._failed: dict[int, Failure] = {}

    def send(self, answer: Answer) -> None:
        with self._sending:
            self._pipe.send(answer)

    def answer(self, backend: Backend, request: Request) -> None:
        """Serve a request and send its answer, or the backend's exception.

        Raises OSError if the parent has ended.
        """
        try:
            answer = self._do(backend, request)
        except BaseException as error:  # the parent must receive every exception
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
                return LoadAnswer(backend.depth, backend.describe())
            case Order.MEMORY:
                return backend.memory()
            case Order.CLOSE:
                backend.close()
        return Done()
