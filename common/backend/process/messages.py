"""What a child process sends to its parent beside its answers."""

import traceback
import warnings
from dataclasses import dataclass

from ... import errors
from ...errors import BackendError
from ...limits import shortage

BACKENDS = "the backend's process"


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
                return cls(kind, str(shortage(error) or error), trace)
        if ours := shortage(error):
            return cls(BackendError, f"{process}: {ours}", trace)
        return cls(BackendError, f"{type(error).__name__} in {process}: {error}", trace)

    def raise_here(self, process: str = BACKENDS) -> None:
        error = self.kind(self.message)
        error.add_note(f"in {process}:\n{self.trace}")
        raise error
