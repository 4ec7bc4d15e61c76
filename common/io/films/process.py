"""What both kinds of film processes share: requests over a pipe, pictures in shared memory."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from multiprocessing import connection, reduction
from typing import TypeVar

from ...backend.process.child import Child
from ...backend.process.messages import Failure
from ...backend.process.shared_frames import Plane, Planes, SharedFrames
from ...errors import BackendError, SdxsError, SinkError, SourceError

ITS_PROCESS = "its process"
T = TypeVar("T")


class Order(Enum):
    """A request without arguments."""

    REWIND = auto()
    CLOSE = auto()


@dataclass(frozen=True, slots=True)
class Refused:
    """An error with a message for the user, and no trace."""

    kind: type[SdxsError]
    message: str


def child_of(
    name: str,
    serve: Callable[..., None],
    *arguments: object,
    report: Callable[[str, float], None] = lambda step, done: None,
    watch: Callable[[], None] | None = None,
) -> Child:
    return Child(name, serve, *arguments, report=report, watch=watch, process=ITS_PROCESS)


def sent(child: Child, lost: type[SdxsError], request: object) -> None:
    """Send a request. Raises `lost` if the child died."""
    try:
        child.send(request)
    except BackendError as error:
        raise lost(str(error)) from None


def received(child: Child, lost: type[SdxsError], expected: type[T]) -> T:
    """Return an answer. Raises `lost` if the child died, and what the child refuses."""
    try:
        answer = child.receive(object)
    except BackendError as error:
        raise lost(str(error)) from None
    if isinstance(answer, Refused):
        raise answer.kind(answer.message)
    assert isinstance(answer, expected), answer
    return answer


def shared(child: Child, shape: tuple[int, ...], made: bool) -> SharedFrames:
    """Share memory for pictures with a child that waits for it."""
    try:
        memory = SharedFrames.create(planes(shape, made))
    except OSError as error:
        kind = SourceError if made else SinkError
        raise kind(
            f"no memory for pictures of {shape[1]} x {shape[0]} ({error.strerror}); end "
            "other programs, or choose a smaller --size"
        ) from None
    child.send_descriptor(memory.descriptor)
    memory.close_descriptor()
    return memory


def shared_by_parent(
    pipe: connection.Connection, shape: tuple[int, ...], made: bool
) -> SharedFrames:
    """Return the memory that the parent shares. Raises EOFError if it could not make any."""
    try:
        return SharedFrames(planes(shape, made), reduction.recv_handle(pipe))
    except RuntimeError:  # no descriptor came: the parent closes this process
        raise EOFError from None


def planes(shape: tuple[int, ...], made: bool) -> Planes:
    empty, pictures = Plane((0,)), Plane(shape)
    return (empty, pictures, empty) if made else (pictures, empty, empty)


def refusal(error: BaseException) -> Refused | Failure:
    if isinstance(error, SdxsError):
        return Refused(type(error), str(error))
    return Failure.of(error, ITS_PROCESS)
