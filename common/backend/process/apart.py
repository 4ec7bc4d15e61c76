"""Run one function in a child process: work that may end its process, or hold the GIL for minutes.

The parent can show progress and end on Ctrl-C meanwhile.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import connection

from .child import Child, forward_warnings, settle_in
from .messages import Failure, Reported

Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Call:
    """The request: call 'module:function' with these picklable arguments."""

    function: str
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Returned:
    """The answer: what the function returned."""

    value: object


def run_apart(
    name: str,
    function: str,
    *arguments: object,
    report: Report = lambda step, done: None,
    timeout_s: float = float("inf"),
    remedies: Mapping[int, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> object:
    """Return what `function(*arguments, report)` returns in a child process.

    name: for messages. function: 'module:function' at module level. arguments and result are
    picklable. report: receives the progress that the function reports. timeout_s: in seconds.
    remedies: as in `Child`. environment: variables that the child sets before anything else. Raises
    the function's exception, and BackendError if the child died or did not answer in time.
    """
    child = Child(name, _serve, dict(environment or {}), remedies=remedies, report=report)
    try:
        return child.ask(Call(function, arguments), Returned, timeout_s).value
    finally:
        child.end(None)


def _serve(pipe: connection.Connection, environment: Mapping[str, str]) -> None:
    settle_in()
    os.environ.update(environment)
    forward_warnings(pipe.send)
    with suppress(EOFError, OSError):  # the parent has ended
        call: Call = pipe.recv()
        try:
            module, attribute = call.function.split(":")
            value = getattr(import_module(module), attribute)(
                *call.arguments, lambda step, done: pipe.send(Reported(step, done))
            )
        except BaseException as error:  # the parent must receive every exception
            pipe.send(Failure.of(error))
        else:
            pipe.send(Returned(value))
        pipe.recv()  # the parent's last request
