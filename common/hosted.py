"""A Backend in a child process: same protocol, frames in shared memory.

For a backend whose call holds the GIL (Core ML through coremltools), and for running two at once:
it cannot stall capture or display, and its memory is its own. A control pipe carries commands
and answers of a few bytes; pictures lie in shared memory that both sides map and whose name is
removed as soon as the child has it, so that nothing is left however either side dies.
"""

import multiprocessing
import signal
import threading
import traceback
import warnings
from collections import deque
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import connection, resource_tracker, shared_memory

import numpy as np

from . import errors
from .backend import BackendOptions, FrameParams, MemoryUse, StageTimes, check_conditioning, check_frame
from .checkpoint import Checkpoint
from .errors import BackendError, SdxsError, SdxsWarning

LOAD_TIMEOUT_S = 600.0
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way from the child: class name, message and the child's traceback."""

    kind: str
    message: str
    trace: str

    def raise_here(self) -> None:
        """Raise it as the same sdxs error, with the child's traceback as a note."""
        known = getattr(errors, self.kind, None)
        is_ours = isinstance(known, type) and issubclass(known, SdxsError)
        error = known(self.message) if is_ours else BackendError(f"{self.kind} in the backend's process: {self.message}")
        error.add_note(f"in the backend's process:\n{self.trace}")
        raise error


class HostedBackend:
    """Run `module:Class` in a spawned child. Raises what the child raises; BackendError if it dies."""

    def __init__(self, name: str, location: str, checkpoint: Checkpoint | None, options: BackendOptions) -> None:
        self.name = name
        self.depth = 1
        self._location = location
        self._checkpoint = checkpoint
        self._options = options
        self._process: multiprocessing.process.BaseProcess | None = None
        self._description: dict[str, str] = {}

    def load(self) -> None:
        """Start the child and load the backend in it; returns when it is warm."""
        shape = (self._options.size, self._options.size, 3)
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        resource_tracker.ensure_running()  # it removes the memory if we are killed before its name is gone
        # A slot per frame in flight, each an input and an output; four is more than any backend's depth.
        self._memory = shared_memory.SharedMemory(create=True, size=2 * _SLOTS * int(np.prod(shape)))
        self._pictures = np.ndarray((_SLOTS, 2, *shape), np.uint8, self._memory.buf)
        self._in_flight: deque[int] = deque()
        self._next = 0
        arguments = (far_end, self._memory.name, shape, self._location, self._checkpoint, self._options)
        try:
            process = context.Process(target=_serve, args=arguments, name=f"sdxs-{self.name}", daemon=True)
            # Ctrl-C reaches the whole terminal group; the child must not die of it while it is starting.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
            self._process = process
            far_end.close()
            self._answer(LOAD_TIMEOUT_S)  # the memory is mapped
        finally:
            self._memory.unlink()
        self.depth, self._description = self._ask("load", timeout=LOAD_TIMEOUT_S)

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        check_conditioning(encoder_hidden_states)
        self._ask("set_conditioning", encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        self._ask("set_params", params)

    def submit(self, frame: np.ndarray) -> None:
        check_frame(frame, self._pictures.shape[2:])
        if len(self._in_flight) == _SLOTS:
            raise BackendError(f"{self.name}: {_SLOTS} frames are in flight already; collect one first")
        slot, self._next = self._next, (self._next + 1) % _SLOTS
        np.copyto(self._pictures[slot, 0], frame)
        self._send(("submit", slot))
        self._in_flight.append(slot)

    def collect(self, out: np.ndarray) -> StageTimes:
        if not self._in_flight:
            raise BackendError(f"{self.name}: collect() without a submitted frame")
        slot = self._in_flight.popleft()
        times = self._ask("collect", slot)
        np.copyto(out, self._pictures[slot, 1])
        return times

    def memory(self) -> MemoryUse:
        return self._ask("memory")

    def describe(self) -> dict[str, str]:
        return {"backend": self.name, **self._description, "process": str(self._process.pid if self._process else 0)}

    @property
    def pid(self) -> int:
        """Process id of the child; 0 when there is none."""
        return (self._process.pid or 0) if self._process else 0

    def close(self) -> None:
        """End the child, by force if it does not answer. Raises what the backend raised while closing."""
        process, self._process = self._process, None
        if process is None:
            return
        failure = None
        try:
            if process.is_alive():
                self._pipe.send(("close",))
                if self._pipe.poll(CLOSE_TIMEOUT_S):
                    failure = self._pipe.recv()
        except (OSError, EOFError):
            pass  # it died on the way; there is nothing left to close
        process.join(CLOSE_TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()
        self._pipe.close()
        del self._pictures
        self._memory.close()
        if isinstance(failure, Failure):
            failure.raise_here()

    def _ask(self, command: str, *arguments: object, timeout: float | None = None):  # type: ignore[no-untyped-def]
        self._send((command, *arguments))
        return self._answer(timeout)

    def _send(self, message: tuple[object, ...]) -> None:
        if self._process is None:
            raise BackendError(f"{self.name}: backend is not loaded; call load() first")
        try:
            self._pipe.send(message)
        except OSError:
            self._report_death()

    def _answer(self, timeout: float | None):  # type: ignore[no-untyped-def]
        assert self._process is not None
        while True:
            ready = connection.wait([self._pipe, self._process.sentinel], timeout)
            if self._pipe in ready:
                try:
                    answer = self._pipe.recv()
                except (EOFError, OSError):
                    self._report_death()
            elif ready:
                self._report_death()
            else:
                raise BackendError(f"{self.name}: the backend's process did not answer within {timeout:.0f} s")
            if isinstance(answer, Failure):
                answer.raise_here()
            if not isinstance(answer, SdxsWarning):
                return answer
            warnings.warn(answer, stacklevel=4)

    def _report_death(self) -> None:
        assert self._process is not None
        self._process.join(1.0)
        code = self._process.exitcode
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code and code < 0 else f"ended with code {code}"
        raise BackendError(f"{self.name}: the backend's process {how} in the middle of its work; start the session again")


_SLOTS = 4


def _serve(
    pipe: connection.Connection, memory_name: str, shape: tuple[int, int, int], location: str,
    checkpoint: Checkpoint | None, options: BackendOptions,
) -> None:
    """The child: map the memory, build the backend, answer commands until told to close or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_die_with_parent, daemon=True).start()
    warnings.showwarning = lambda message, *_, **__: pipe.send(message) if isinstance(message, SdxsWarning) else None
    memory = shared_memory.SharedMemory(memory_name)
    pictures = np.ndarray((_SLOTS, 2, *shape), np.uint8, memory.buf)
    pipe.send("mapped")
    server = _Server(pictures, location, checkpoint, options)
    try:
        while True:
            command, *arguments = pipe.recv()
            try:
                answer = getattr(server, command)(*arguments)
            except Exception as error:  # whatever it is, the parent must hear of it
                answer = Failure(type(error).__name__, str(error), traceback.format_exc())
            if command != "submit" or isinstance(answer, Failure):
                pipe.send(answer)
            if command == "close":
                break
    except (EOFError, OSError):
        pass  # the parent is gone; nobody is left to answer
    finally:
        del pictures, server.pictures
        memory.close()


class _Server:
    """The child's side of each command; a failed submit is answered when its frame is collected."""

    def __init__(
        self, pictures: np.ndarray, location: str, checkpoint: Checkpoint | None, options: BackendOptions
    ) -> None:
        self.pictures = pictures
        self._location = location
        self._checkpoint = checkpoint
        self._options = options
        self._backend = None
        self._failed: dict[int, Exception] = {}

    def load(self) -> tuple[int, dict[str, str]]:
        module, attribute = self._location.split(":")
        self._backend = getattr(import_module(module), attribute)(self._checkpoint, self._options)
        self._backend.load()
        return self._backend.depth, self._backend.describe()

    def set_conditioning(self, states: np.ndarray) -> None:
        self._backend.set_conditioning(states)

    def set_params(self, params: FrameParams) -> None:
        self._backend.set_params(params)

    def submit(self, slot: int) -> None:
        try:
            self._backend.submit(self.pictures[slot, 0])
        except Exception as error:  # answered in order, when the frame is collected
            self._failed[slot] = error

    def collect(self, slot: int) -> StageTimes:
        if slot in self._failed:
            raise self._failed.pop(slot)
        return self._backend.collect(self.pictures[slot, 1])

    def memory(self) -> MemoryUse:
        return self._backend.memory()

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    signal.raise_signal(signal.SIGKILL)  # nobody is left to hear from us, and a call may hold this process for long
