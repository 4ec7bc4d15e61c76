"""One backend in a process of its own, measured from inside that process.

Requests come over the pipe of `common.backend.process.child.Child`; each is a dataclass with a `do`
method, run in the child, whose answer goes back. Nothing of the way there and back is in a figure.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import Generic, TypeVar

import numpy as np

from ...backend.process.child import Child, forward_warnings, settle_in
from ...backend.process.messages import Failure
from ...checkpoint.find import Checkpoint
from .requests import Bench, Close, Entrant, Request

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """Wraps what a request answered."""

    value: T


class Worker:
    """The parent's side of one entrant's process.

    Raises what the child raises; BackendError if it dies.
    """

    def __init__(
        self,
        entrant: Entrant,
        checkpoint: Checkpoint,
        encoder_hidden_states: np.ndarray,
        seed: int,
        watch: Callable[[], None] | None = None,
    ) -> None:
        """Start the process; nothing is loaded in it yet. watch: see `Child`."""
        self.entrant = entrant
        self._child = Child(
            entrant.label,
            serve,
            entrant,
            checkpoint,
            encoder_hidden_states,
            seed,
            watch=watch,
            remedies=entrant.options.remedies(),
        )

    @property
    def pid(self) -> int:
        return self._child.pid

    def ask(self, request: Request[T]) -> T:
        self.send(request)
        return self.receive(request)

    def send(self, request: Request[T]) -> None:
        """Start something and fetch its answer later, so that two workers can be busy at once."""
        self._child.send(request)

    def receive(self, request: Request[T]) -> T:
        """Return the answer to `request`, which was sent last."""
        reply: Reply[T] = self._child.receive(Reply)
        return reply.value

    def end(self) -> None:
        """Close the backend and end the process, by force if needed; ignore its complaints."""
        self._child.end(Close())


def serve(
    pipe: connection.Connection,
    entrant: Entrant,
    checkpoint: Checkpoint,
    encoder_hidden_states: np.ndarray,
    seed: int,
) -> None:
    """The child: do what is asked until told to close or the parent is gone."""
    settle_in()
    bench = Bench(entrant, checkpoint, encoder_hidden_states, seed)
    with suppress(EOFError, OSError), pipe:  # the parent is gone; nobody is left to answer
        forward_warnings(pipe.send)
        request = None
        while not isinstance(request, Close):
            request = pipe.recv()
            try:
                answer: object = Reply(request.do(bench))
            except BaseException as error:  # whatever it is, the parent must hear of it
                answer = Failure.of(error)
            pipe.send(answer)
