"""A child process that serves requests of a few bytes over a pipe.

The child ignores Ctrl-C, SIGTERM and SIGHUP, which reach the whole terminal group. Its parent
decides when it ends, and it never outlives its parent. The parent raises the child's exceptions and
repeats its warnings.
"""

import ctypes
import fcntl
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, reduction, resource_tracker
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from types import MappingProxyType
from typing import TypeVar

from ... import errors
from ...errors import BackendError

CLOSE_TIMEOUT_S = 2.0
LOOK_S = 0.25  # interval between checks of a child that has not answered
PARENTS_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
START_AGAIN = "start the session again"
BACKENDS = "the backend's process"
REMEDIES: Mapping[int, str] = MappingProxyType(
    {
        signal.SIGKILL: "unless someone killed it, memory ran out: end other programs or take a "
        "smaller --size"
    }
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done:
    """Answer to a request that returns nothing."""


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning sent to the parent; it may precede any answer."""

    kind: type[Warning]
    message: str
    filename: str
    line: int

    def warn_here(self) -> None:
        warnings.warn_explicit(self.message, self.kind, self.filename, self.line)


@dataclass(frozen=True, slots=True)
class Reported:
    """Progress sent to the parent; it may precede any answer. done: share of the step, 0 to 1."""

    step: str
    done: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception sent to the parent, as an `SdxsError`, with the child's traceback."""

    kind: type[Exception]
    message: str
    trace: str

    @classmethod
    def of(cls, error: BaseException, process: str = BACKENDS) -> "Failure":
        trace = "".join(traceback.format_exception(error))
        for kind in type(error).__mro__:
            if kind.__module__ == errors.__name__ and issubclass(kind, Exception):
                return cls(kind, str(error), trace)
        return cls(BackendError, f"{type(error).__name__} in {process}: {error}", trace)

    def raise_here(self, process: str = BACKENDS) -> None:
        error = self.kind(self.message)
        error.add_note(f"in {process}:\n{self.trace}")
        raise error


class Child:
    """The parent's side of one child process. `death` is the cause of its death, '' if unknown."""

    def __init__(
        self,
        name: str,
        serve: Callable[..., None],
        *arguments: object,
        watch: Callable[[], None] | None = None,
        remedies: Mapping[int, str] | None = None,
        report: Callable[[str, float], None] = lambda step, done: None,
        process: str = BACKENDS,
    ) -> None:
        """Start `serve(pipe, *arguments)` in a child process. Raises BackendError.

        serve: a module-level function that calls `settle_in` first. arguments: picklable values.
        watch: called four times a second during a wait; its exception ends the wait. remedies: what
        to do about a child that died, by signal; see `BackendOptions.remedies`. report: receives
        every `Reported`. process: what messages call the child.
        """
        self.death = ""
        self._called = process
        self._name = name
        self._watch = watch
        self._remedies = {**REMEDIES, **(remedies or {})}
        self._report = report
        context = multiprocessing.get_context("spawn")
        # otherwise start() runs the tracker, which unblocks the signals again
        resource_tracker.ensure_running()
        try:
            self._pipe, far_end = context.Pipe()
            self._process = context.Process(
                target=serve, args=(far_end, *arguments), name=f"sdxs-{name}"
            )
            # The child inherits blocked signals: Ctrl-C cannot end it before it ignores SIGINT.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
            try:
                self._process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
                far_end.close()
        except OSError as error:
            raise BackendError(
                f"{name}: its process cannot be started ({error}); end other programs"
            ) from error
        self.pid = self._process.pid or 0
        # If `end()` is never called, when nobody has this object any more, or at exit, where
        # multiprocessing would join the child forever. Does nothing in a fork of this process.
        self._stop = Finalize(self, _kill, (self._process,), exitpriority=0)

    def send(self, request: object) -> None:
        """Send a request that has no answer. Raises BackendError if the child is dead."""
        if self.death:
            raise BackendError(self.death)
        try:
            self._pipe.send(request)
            return
        except OSError:
            # raised below: an error raised here would keep the failed send's buffer alive
            pass
        raise self._dead()

    def ask(self, request: object, expected: type[T], timeout_s: float = float("inf")) -> T:
        """Send a request and return its answer.

        Raises the child's exception, or BackendError if the child died or did not answer in time.
        """
        try:
            self.send(request)
        except BaseException:
            self._abandon()
            raise
        return self.receive(expected, timeout_s)

    def answered(self) -> bool:
        """Tell whether an answer can be received at once."""
        return self._pipe.poll()

    def send_descriptor(self, descriptor: int) -> None:
        """Send an open file, which the child receives with `reduction.recv_handle`."""
        reduction.send_handle(self._pipe, descriptor, self.pid)

    def receive(self, expected: type[T], timeout_s: float = float("inf")) -> T:
        """Return the answer to the last request. Raises as `ask` does."""
        warned = []
        try:
            deadline = time.monotonic() + timeout_s
            while isinstance(answer := self._receive(deadline), Warned | Reported):
                if isinstance(answer, Reported):
                    self._report(answer.step, answer.done)
                else:
                    warned.append(answer)
        except BaseException:
            self._abandon()
            raise
        # after the answer has arrived: a filter may turn the warning into an exception
        for warning in warned:
            warning.warn_here()
        if isinstance(answer, Failure):
            answer.raise_here(self._called)
        if not isinstance(answer, expected):
            found = type(answer).__name__
            raise BackendError(
                f"{self._name}: {self._called} answered {found}, expected {expected.__name__}"
            )
        return answer

    def end(self, closing: object) -> list[object]:
        """Send a last request, end the process and return its remaining answers.

        A child that hangs is killed after CLOSE_TIMEOUT_S.
        """
        said: list[object] = []
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        with suppress(OSError, EOFError):  # no more answers, or the child is already dead
            self._pipe.send(closing)
            while self._pipe.poll(max(0.0, deadline - time.monotonic())):
                said.append(self._pipe.recv())
        self._process.join(max(0.0, deadline - time.monotonic()))
        self._stop()
        self._pipe.close()
        return said

    def _receive(self, deadline: float) -> object:
        try:
            while not self._pipe.poll(LOOK_S):
                if self._watch:
                    self._watch()
                # A grandchild may hold the pipe of a dead child open.
                if not self._process.is_alive() and not self._pipe.poll():
                    raise EOFError
                if time.monotonic() > deadline:
                    remedy = self._remedies.get(signal.SIGABRT, START_AGAIN)
                    raise BackendError(
                        f"{self._name}: {self._called} did not answer in time; {remedy}"
                    )
            answer: object = self._pipe.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        return answer

    def _abandon(self) -> None:
        """Kill the child after an abandoned request: the next request would get its late answer."""
        self._process.kill()
        if not self.death:
            self._dead()

    def _dead(self) -> BackendError:
        """Find out how the child died."""
        self._process.join(LOOK_S)
        code = self._process.exitcode
        how, remedy = f"ended by itself with exit code {code}", START_AGAIN
        if code is None:
            how = "hung up"
        elif code < 0:
            names = {known.value: known.name for known in signal.Signals}
            how = f"was killed by signal {-code} ({names.get(-code, 'no name')})"
            remedy = self._remedies.get(-code, START_AGAIN)
        self.death = f"{self._name}: {self._called} {how}; {remedy}"
        return BackendError(self.death)


def _kill(process: SpawnProcess) -> None:
    """End a child for good, also a stopped one, which no other signal ends."""
    process.kill()
    process.join()
    process.close()


# The child's side.


def settle_in() -> None:
    """Ignore the parent's signals and end with the parent; the first call in a child.

    Libraries that print then print to stderr: stdout belongs to the command's own output.
    """
    with suppress(OSError):  # stderr may be closed
        os.dup2(2, 1)
    for number in PARENTS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS_SIGNALS)
    _end_with_parent()


def forward_warnings(send: Callable[[Warned], None]) -> None:
    """Send every warning to the parent, whose filters apply to an `SdxsWarning`."""

    def forward(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *_: object,
        **__: object,
    ) -> None:
        # The parent may not have imported the class: send its nearest built-in or sdxs ancestor.
        known = (
            kind for kind in category.__mro__ if kind.__module__ in ("builtins", errors.__name__)
        )
        send(Warned(next(known), str(message), filename, lineno))

    warnings.showwarning = forward
    warnings.simplefilter("always", errors.SdxsWarning)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.sentinel)


def end_with(sentinel: int) -> None:
    """End this process when its parent ends, even within a call that holds the GIL.

    sentinel: descriptor of a pipe without traffic; the kernel closes it when the parent ends.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    with suppress(OSError):  # without SIGIO support in the kernel, the thread below suffices
        # a handler in Python would need the GIL
        libc.signal(signal.SIGIO, ctypes.cast(libc._exit, ctypes.c_void_p))
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        connection.wait([sentinel])
        signal.raise_signal(signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
