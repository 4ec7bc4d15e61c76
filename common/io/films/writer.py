"""Write a film in a process of its own."""

import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ...backend import copies
from ...backend.process.child import Done, Failure, Reported, forward_warnings, settle_in
from ...backend.process.shared_frames import SLOTS, SharedFrames
from ...errors import SinkError
from .plan import FilmPlan, Sound
from .process import Order, Refused, child_of, received, refusal, sent, shared, shared_by_parent

if TYPE_CHECKING:
    from .encode import Encoder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ready:
    """The child has imported FFmpeg."""


@dataclass(frozen=True, slots=True)
class Write:
    """Encode the picture in a slot."""

    slot: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Finish:
    """Finish the film under this name."""

    path: Path
    sound: Sound | None


@dataclass(frozen=True, slots=True)
class Finished:
    """The name of the film, None if there is none, and what is not as it should be, or ''."""

    path: Path | None
    complaint: str


class FilmWriter:
    """Encodes pictures in a process of its own; a slow encoder is waited for, or passed over.

    path: of the finished film.
    """

    def __init__(
        self, name: str, report: Callable[[str, float], None] = lambda step, done: None
    ) -> None:
        """Start the process, and wait for nothing.

        name: of the film, for messages. report: receives the progress of `finish`.
        """
        self._child = child_of(name, _serve_writer, report=report)
        self._end = weakref.finalize(self, self._child.end, Order.CLOSE)
        self._memory: SharedFrames | None = None
        self.path: Path | None = None
        self._ready = self._failed = False
        self._free = deque(range(SLOTS))
        self._taken: deque[int] = deque()

    def open(self, plan: FilmPlan) -> None:
        """Open the film; the picture's size is fixed from now on. Raises SinkError."""
        self._wait_until_ready()
        sent(self._child, SinkError, plan)
        self._memory = shared(self._child, (plan.height, plan.width, 3), made=False)
        self._ask(Done)

    def ready(self) -> bool:
        """Tell whether a picture could be taken at once."""
        if not self._ready and self._child.answered():
            self._wait_until_ready()
        self._collect(wait=False)
        return self._ready and bool(self._free)

    def write(self, picture: np.ndarray, at_s: float) -> None:
        """Encode uint8 (H, W, 3) RGB, shown from `at_s` on; waits for a free slot.

        Raises SinkError of this picture or an earlier one.
        """
        assert self._memory is not None
        self._collect(wait=not self._free)
        slot = self._free.popleft()
        np.copyto(self._memory.given[slot], picture)
        copies.count("video", picture.nbytes)
        self._taken.append(slot)
        sent(self._child, SinkError, Write(slot, at_s))

    def finish(self, path: Path, sound: Sound | None) -> None:
        """Finish the film; `path` then tells its name. Raises SinkError if it is not whole.

        An error of an earlier picture that was not raised before is raised once the film is
        finished.
        """
        told, refusals = self._failed, []
        while self._taken:
            try:
                self._collect(wait=True)
            except SinkError as error:
                refusals.append(error)
        sent(self._child, SinkError, Finish(path, sound))
        done = self._ask(Finished)
        self.path = done.path
        if refusals and not told:
            raise refusals[0]
        if done.complaint and (not told or done.path != path):
            raise SinkError(done.complaint)

    def close(self) -> None:
        """End the process; calling it again does nothing."""
        self._end()

    def _wait_until_ready(self) -> None:
        if not self._ready:
            self._ask(Ready)
            self._ready = True

    def _collect(self, wait: bool) -> None:
        """Take back the slots of encoded pictures."""
        while self._taken and (wait or self._child.answered()):
            self._free.append(self._taken.popleft())
            wait = False
            try:
                self._ask(Done)
            except SinkError:
                self._failed = True
                raise

    def _ask(self, expected: type[T]) -> T:
        return received(self._child, SinkError, expected)


# The child's side.


def _serve_writer(pipe: connection.Connection) -> None:
    settle_in()
    forward_warnings(pipe.send)
    from .encode import Encoder

    with suppress(EOFError, OSError):
        pipe.send(Ready())
        plan = pipe.recv()
        if plan is Order.CLOSE:
            return
        memory = shared_by_parent(pipe, (plan.height, plan.width, 3), made=False)
        try:
            encoder = Encoder(plan)
        except Exception as error:
            pipe.send(_refusal_of_film(plan, error))
            pipe.recv()
            return
        pipe.send(Done())
        while (request := pipe.recv()) is not Order.CLOSE:
            try:
                pipe.send(_written(request, encoder, plan, memory, pipe))
            except Exception as error:
                pipe.send(_refusal_of_film(plan, error))


def _written(
    request: Write | Finish,
    encoder: "Encoder",
    plan: FilmPlan,
    memory: SharedFrames,
    pipe: connection.Connection,
) -> Done | Finished:
    from .finish import finish

    if isinstance(request, Write):
        encoder.write(memory.given[request.slot], request.at_s)
        return Done()
    with suppress(OSError):  # FFmpeg's errors, too; what is missing is found by `finish`
        encoder.close()
    return Finished(
        *finish(
            plan.path,
            request.path,
            request.sound,
            encoder.frames,
            lambda step, done: pipe.send(Reported(step, done)),
        )
    )


def _refusal_of_film(plan: FilmPlan, error: Exception) -> Refused | Failure:
    from av.error import FFmpegError

    if isinstance(error, OSError | FFmpegError):
        kept = plan.path.exists() and plan.path.stat().st_size > 0
        return Refused(
            SinkError,
            f"{plan.name}: cannot be written ({getattr(error, 'strerror', None) or error}); "
            f"{'what was recorded until now is kept; ' if kept else ''}free space or record "
            "elsewhere",
        )
    return refusal(error)
