"""Send pictures from a process of its own.

A receiver that hangs, and a library that crashes, cost that process alone.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import connection
from typing import Protocol, cast

import numpy as np

from ...backend.process.child import forward_warnings, settle_in
from ...backend.process.messages import Done
from ...errors import SinkError, SinkLost
from ...patience import Patience
from ..films.process import (
    Order,
    child_of,
    received,
    refusal,
    sent,
    shared,
    shared_by_parent,
)
from .plan import OutputPlan

SILENT_S = 10.0  # that a receiver may take nothing
OPEN_S = 30.0  # for libraries to load and a receiver to be found


class HostedOutlet(Protocol):
    """An outlet within its process. idle_s: how often `idle` is called in between; None: never."""

    idle_s: float | None

    def send(self, picture: np.ndarray, at_s: float) -> None: ...

    def idle(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Send:
    """Send the shared picture."""

    at_s: float


class ProcessOutlet:
    """The parent's side of an outlet in a process of its own. One thread."""

    def __init__(self, kind: str, plan: OutputPlan, closing: Callable[[], bool]) -> None:
        """Open it. Raises SinkLost, SinkError.

        kind: 'module:class' of a `HostedOutlet` in this package, which takes a plan. closing:
        tells that nothing more is to be waited for.
        """
        self._plan, self._closing = plan, closing
        self._patience: Patience | None = None
        self._child = child_of(plan.label, _serve, kind, plan, watch=self._watch)
        try:
            self._memory = shared(self._child, (plan.height, plan.width, 3), made=False)
            self._answer(OPEN_S)
        except BaseException:
            self.close()
            raise

    def send(self, picture: np.ndarray, at_s: float) -> None:
        np.copyto(self._memory.given[0], picture)
        sent(self._child, SinkError, Send(at_s))
        self._answer(SILENT_S)

    def close(self) -> None:
        self._child.end(Order.CLOSE)

    def _answer(self, limit_s: float) -> None:
        self._patience = Patience(limit_s)
        received(self._child, SinkError, Done)

    def _watch(self) -> None:
        """End a wait that is too long; called several times a second while one lasts."""
        if self._closing():
            raise SinkError(f"{self._plan.label}: ends")
        if self._patience and not self._patience.left_s():
            raise SinkLost(
                f"{self._plan.label}: takes nothing any more; look after its receiver and the "
                "connection"
            )


# The child's side.


def _serve(pipe: connection.Connection, kind: str, plan: OutputPlan) -> None:
    settle_in()
    forward_warnings(pipe.send)
    with suppress(EOFError, OSError):  # the parent has ended
        memory = shared_by_parent(pipe, (plan.height, plan.width, 3), made=False)
        try:
            outlet = _made(kind, plan)
        except BaseException as error:  # the parent must receive every exception
            pipe.send(refusal(error))
            pipe.recv()  # the parent's last request
            return
        pipe.send(Done())
        while True:
            while not pipe.poll(outlet.idle_s):
                outlet.idle()
            request = pipe.recv()
            if request is Order.CLOSE:
                break
            try:
                outlet.send(memory.given[0], request.at_s)
                pipe.send(Done())
            except Exception as error:
                pipe.send(refusal(error))
        outlet.close()


def _made(kind: str, plan: OutputPlan) -> HostedOutlet:
    module, _, name = kind.partition(":")
    maker = getattr(import_module(module, __package__), name)
    return cast(HostedOutlet, maker(plan))
