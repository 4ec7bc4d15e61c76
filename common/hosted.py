"""A Backend in a child process: same protocol, same errors, frames in shared memory.

For a backend whose call holds the GIL (Core ML through coremltools), and for running two at once:
it cannot stall capture or display, and its memory is its own. Frames are pictures, unless a part of
a pipeline that passes other arrays on says so (`Plane`). Requests and answers of a few bytes
go over a pipe; frames lie in memory that both sides map and that has no name, so nothing is left
however either side dies. The child ignores Ctrl-C and SIGTERM, which reach the whole terminal
group: its parent decides when it ends, and it never outlives its parent.
"""

import _posixshmem  # what multiprocessing.shared_memory stands on
import atexit
import ctypes
import fcntl
import math
import mmap
import multiprocessing
import os
import secrets
import signal
import threading
import time
import traceback
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from importlib import import_module
from multiprocessing import connection, reduction, resource_tracker
from typing import TypeVar

import numpy as np

from . import errors
from .backend import Backend, BackendOptions, FrameParams, MemoryUse, StageTimes, check_frame
from .checkpoint import Checkpoint
from .errors import BackendError

LOAD_TIMEOUT_S = 600.0
CLOSE_TIMEOUT_S = 2.0
LOOK_S = 0.25  # how often a child that does not answer is looked after
SLOTS = 4  # most frames in flight
ALIGNMENT = 64  # bytes: a cache line
PARENTS_SIGNALS = {signal.SIGINT, signal.SIGTERM}

T = TypeVar("T")


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
    description: dict[str, str]


@dataclass(frozen=True, slots=True)
class Done:
    """Answers a request that returns nothing."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning on its way to the parent; it may come before any answer."""

    kind: type[Warning]
    message: str
    filename: str
    line: int

    def warn_here(self) -> None:
        warnings.warn_explicit(self.message, self.kind, self.filename, self.line)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way to the parent, as one of sdxs's own, with the child's traceback."""

    kind: type[Exception]
    message: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        trace = "".join(traceback.format_exception(error))
        for kind in type(error).__mro__:
            if kind.__module__ == errors.__name__ and issubclass(kind, Exception):
                return cls(kind, str(error), trace)
        return cls(BackendError, f"{type(error).__name__} in the backend's process: {error}", trace)

    def raise_here(self) -> None:
        error = self.kind(self.message)
        error.add_note(f"in the backend's process:\n{self.trace}")
        raise error


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
            raise BackendError(f"frame is {frame.dtype} {frame.shape}; expected contiguous {self.dtype} {self.shape}")


Planes = tuple[Plane, Plane, Plane]  # what is given, what is made, edges
# Prompts and parameters need no envelope: the array and the FrameParams are the requests.
Request = Order | Submit | Collect | FrameParams | np.ndarray
Answer = Loaded | Done | StageTimes | MemoryUse | Warned | Failure


class HostedBackend:
    """Run `module:Class` in a spawned child. Raises what the backend raises; BackendError if the child dies.

    `collect` returns the time inside the backend proper; the way there and back comes on top.
    """

    def __init__(
        self, name: str, location: str, checkpoint: Checkpoint | None, options: BackendOptions,
        takes: Plane | None = None, gives: Plane | None = None,
    ) -> None:
        """Take what to run; no process is started yet. location: 'module:Class', as in the CLI's table.

        takes, gives: what `submit` and `collect` pass where that is no picture.
        """
        picture = Plane((options.size, options.size, 3))
        self.name = name
        self._planes = (takes or picture, gives or picture, Plane((options.size, options.size)))
        self.depth = 1
        self._location = location
        self._checkpoint = checkpoint
        self._options = options
        self._child: _Child | None = None
        self._description: dict[str, str] = {}
        self._in_flight: deque[int] = deque()
        self._free: list[int] = []

    def load(self) -> None:
        """Start the child and load the backend in it; returns when it is warm. Loading again starts afresh."""
        self.close()
        self._child = child = _Child(self.name, self._location, self._checkpoint, self._options, self._planes)
        try:
            loaded = child.ask(Order.LOAD, Loaded, LOAD_TIMEOUT_S)
        except BaseException:
            self._child = None
            child.end()
            raise
        self.depth, self._description = min(loaded.depth, SLOTS), loaded.description
        self._in_flight.clear()
        self._free = list(range(SLOTS))  # used from the end, so that few frames in flight stay in the CPU's cache

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
            raise BackendError(f"{self.name}: {SLOTS} frames are in flight already; collect one first")
        slot = self._free.pop()
        self._in_flight.append(slot)
        np.copyto(child.arrays.given[slot], frame)
        if edges is not None:
            np.copyto(child.arrays.edges[slot], edges)
        child.send(Submit(slot, edges is not None))

    def collect(self, out: np.ndarray) -> StageTimes:
        child = self._running()
        if not self._in_flight:
            raise BackendError(f"{self.name}: collect() without a submitted frame")
        slot = self._in_flight.popleft()
        self._free.append(slot)
        times = child.ask(Collect(slot), StageTimes)
        np.copyto(out, child.arrays.made[slot])
        return times

    def memory(self) -> MemoryUse:
        """Say what the child's backend holds now: nothing if there is none, or none any more."""
        if self._child is None or self._child.death:
            return MemoryUse(0, 0, 0, 0)
        return self._child.ask(Order.MEMORY, MemoryUse)

    def describe(self) -> dict[str, str]:
        return {"backend": self.name, **self._description, "process": str(self.pid)}

    @property
    def pid(self) -> int:
        """Process id of the child; 0 when there is none."""
        return self._child.pid if self._child else 0

    def close(self) -> None:
        """End the child, by force if it does not answer. Raises what the backend raised while closing."""
        child, self._child = self._child, None
        if child is None:
            return
        for answer in child.end():
            if isinstance(answer, Warned):
                answer.warn_here()
            elif isinstance(answer, Failure):
                answer.raise_here()

    def _running(self) -> "_Child":
        if self._child is None:
            raise BackendError(f"{self.name}: backend is not loaded; call load() first")
        return self._child


class _Arrays:
    """Shared memory for the frames: in each of SLOTS what is given to the backend, what it makes, and edges."""

    def __init__(self, planes: Planes, descriptor: int) -> None:
        self._planes = planes
        self._descriptor = descriptor
        memory = np.frombuffer(mmap.mmap(descriptor, SLOTS * _slot_bytes(planes)), np.uint8).reshape(SLOTS, -1)
        starts = (0, _aligned(planes[0].nbytes), _slot_bytes(planes[:2]))
        self.given, self.made, self.edges = (
            [row[start : start + plane.nbytes].view(plane.dtype).reshape(plane.shape) for row in memory]
            for start, plane in zip(starts, planes, strict=True)
        )

    @classmethod
    def create(cls, planes: Planes) -> "_Arrays":
        """Allocate the memory; its name is gone before anybody can die and leave it behind. Raises OSError."""
        name = f"/sdxs-{secrets.token_hex(4)}"  # 14 characters fit every system's limit
        descriptor: int = _posixshmem.shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode=0o600)
        try:
            _posixshmem.shm_unlink(name)
            count = SLOTS * _slot_bytes(planes)
            os.ftruncate(descriptor, count)
            if hasattr(os, "posix_fallocate"):  # where it exists a full /dev/shm is an error here and not SIGBUS later
                os.posix_fallocate(descriptor, 0, count)
            return cls(planes, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def __reduce__(self) -> "tuple[type[_Arrays], tuple[Planes, int]]":
        # Pickled on the way into a spawned process, which inherits the descriptor under the same number.
        return _Arrays, (self._planes, reduction.DupFd(self._descriptor).detach())

    def close_descriptor(self) -> None:
        """Keep only the mapping, which ends with the arrays."""
        os.close(self._descriptor)


def _slot_bytes(planes: tuple[Plane, ...]) -> int:
    return sum(_aligned(plane.nbytes) for plane in planes)


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


class _Child:
    """The parent's side of one child process. `death` says how it died, once that is known."""

    def __init__(
        self, name: str, location: str, checkpoint: Checkpoint | None, options: BackendOptions, planes: Planes
    ) -> None:
        """Start it. Raises BackendError."""
        self.death = ""
        self._name = name
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # else start() runs it, and running it unblocks the signals again
        try:
            self._pipe, far_end = context.Pipe()
            self.arrays = _Arrays.create(planes)
            arguments = (far_end, self.arrays, location, checkpoint, options)
            self._process = context.Process(target=_serve, args=arguments, name=f"sdxs-{name}")
            # Blocked signals are inherited: Ctrl-C cannot end the child before it has said that it ignores it.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
                self.arrays.close_descriptor()
                far_end.close()
        except OSError as error:
            raise BackendError(f"{name}: its process cannot be started ({error}); end other programs") from error
        self.pid = self._process.pid or 0
        atexit.register(self._process.kill)  # for who never closes: multiprocessing would wait for the child for ever

    def send(self, request: Request) -> None:
        """Send a request that has no answer. Raises BackendError if the child is dead."""
        if self.death:
            raise BackendError(self.death)
        try:
            self._pipe.send(request)
            return
        except OSError:
            pass  # raised below: within, the failed send would hang on to its buffer, as the error's context
        raise self._dead()

    def ask(self, request: Request, expected: type[T], timeout_s: float = float("inf")) -> T:
        """Send a request and return its answer. Raises what the child raised, BackendError if it died."""
        warned = []
        try:
            self.send(request)
            while isinstance(answer := self._receive(time.monotonic() + timeout_s), Warned):
                warned.append(answer)
        except BaseException:
            self._process.kill()  # an answer that nobody waited for would be taken for that to the next request
            raise
        for warning in warned:  # only now: a warning may be turned into an exception
            warning.warn_here()
        if isinstance(answer, Failure):
            answer.raise_here()
        if not isinstance(answer, expected):
            raise BackendError(f"{self._name}: the backend's process answered {type(answer).__name__} to {request}")
        return answer

    def end(self) -> list[Answer]:
        """Close the backend and end the process, by force if it hangs. Return what it still had to say."""
        said: list[Answer] = []
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        with suppress(OSError, EOFError):  # the end of its answers, or it is dead already
            self._pipe.send(Order.CLOSE)
            while self._pipe.poll(max(0.0, deadline - time.monotonic())):
                said.append(self._pipe.recv())
        self._process.join(max(0.0, deadline - time.monotonic()))
        self._process.kill()
        self._process.join()
        atexit.unregister(self._process.kill)
        self._process.close()
        self._pipe.close()
        return said

    def _receive(self, deadline: float) -> Answer:
        try:
            while not self._pipe.poll(LOOK_S):
                # A dead child closes the pipe, unless a process that it had started holds it open.
                if not self._process.is_alive() and not self._pipe.poll():
                    raise EOFError
                if time.monotonic() > deadline:
                    raise BackendError(f"{self._name}: the backend's process did not answer in time; start it again")
            answer: Answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        return answer

    def _dead(self) -> BackendError:
        """Find out how the child died."""
        self._process.join(LOOK_S)
        code = self._process.exitcode
        how, remedy = f"ended by itself with exit code {code}", "start the session again"
        if code is None:
            how = "hung up"
        elif code < 0:
            names = {known.value: known.name for known in signal.Signals}
            how = f"was killed by signal {-code} ({names.get(-code, 'no name')})"
            if code == -signal.SIGKILL:
                remedy = "if nobody did that, memory ran out: end other programs or take a smaller --size"
        self.death = f"{self._name}: the backend's process {how}; {remedy}"
        return BackendError(self.death)


# The child's side.


def _serve(
    pipe: connection.Connection, arrays: _Arrays, location: str, checkpoint: Checkpoint | None,
    options: BackendOptions,
) -> None:
    """Build the backend and do as asked, until told to close or the parent is gone."""
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS_SIGNALS)
    _end_with_parent()
    arrays.close_descriptor()
    host = _Host(pipe, arrays)
    with suppress(EOFError, OSError), pipe:  # the parent is gone; nobody is left to answer
        host.forward_warnings()
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
        """Do it and send the answer; what a backend raises is one. Raises OSError if the parent is gone."""
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
                given = (self._arrays.given[slot], *([self._arrays.edges[slot]] if edges else []))
                backend.submit(*given)
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

    def forward_warnings(self) -> None:
        """Send every warning to the parent, whose filters decide about sdxs's own."""

        def forward(
            message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
        ) -> None:
            # A class that the parent has not imported goes as its nearest ancestor that everybody knows.
            known = (kind for kind in category.__mro__ if kind.__module__ in ("builtins", errors.__name__))
            self.send(Warned(next(known), str(message), filename, lineno))

        warnings.showwarning = forward
        warnings.simplefilter("always", errors.SdxsWarning)


def _end_with_parent() -> None:
    """See to it that this process ends when the parent does, even within a call that holds the GIL."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel  # a pipe that nobody writes to; the kernel closes it when the parent is gone
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    with suppress(OSError):  # a kernel that does not signal this leaves it to the thread
        libc.signal(signal.SIGIO, ctypes.cast(libc._exit, ctypes.c_void_p))  # a handler in Python would need the GIL
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        connection.wait([sentinel])
        signal.raise_signal(signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
