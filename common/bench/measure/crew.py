"""The workers of a run: started, loaded, kept or replaced. Failures come back as values, and are
noted once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from ...errors import SdxsError
from .worker import Entrant, Load, Loaded, Request, Worker

T = TypeVar("T")


class Failed(str):
    """What a worker said instead of an answer."""

    __slots__ = ()


class Crew:
    """Lends out loaded workers. fresh: new processes each time; otherwise the same ones until one
    fails.
    """

    def __init__(
        self, start: Callable[[Entrant], Worker], fresh: bool, note: Callable[[str], None]
    ) -> None:
        """start: makes a worker in which nothing is loaded yet. note: told every failure, in one
        line.
        """
        self._start, self._fresh, self._note = start, fresh, note
        self._alive: dict[str, tuple[Worker, Loaded]] = {}

    @contextmanager
    def of(
        self, entrants: Sequence[Entrant], during: str
    ) -> Iterator[dict[str, tuple[Worker, Loaded]]]:
        """Loaded workers by label, without those that failed to load."""
        try:
            missing = [e for e in entrants if e.label not in self._alive]
            if self._fresh:
                for entrant in missing:
                    self._load([entrant], during)
            else:
                self._load(
                    missing, during
                )  # all at once: it is done once, may take minutes, and no figure comes of it
            yield {e.label: self._alive[e.label] for e in entrants if e.label in self._alive}
        finally:
            if self._fresh:
                self.end()

    def ask(self, worker: Worker, request: Request[T], during: str) -> T | Failed:
        """What the worker answers. One that fails is ended and will be started anew when it is
        needed again.
        """
        return self._attempt(worker, lambda: worker.ask(request), during)

    def ask_at_once(
        self, workers: Sequence[Worker], request: Request[T], during: str
    ) -> list[T | Failed]:
        """Ask all, then wait for all."""
        sent = [self._attempt(worker, partial(worker.send, request), during) for worker in workers]
        return [
            said
            if isinstance(said, Failed)
            else self._attempt(worker, partial(worker.receive, request), during)
            for worker, said in zip(workers, sent, strict=True)
        ]

    def end(self) -> None:
        """End every process."""
        while self._alive:
            _, (worker, _) = self._alive.popitem()
            worker.end()

    def _load(self, entrants: Sequence[Entrant], during: str) -> None:
        started = []
        try:
            for entrant in entrants:
                started.append(self._start(entrant))
            for worker, loaded in zip(
                started, self.ask_at_once(started, Load(), during), strict=True
            ):
                if isinstance(loaded, Loaded):
                    self._alive[worker.entrant.label] = worker, loaded
        except BaseException:
            for worker in started:
                worker.end()
            raise

    def _attempt(self, worker: Worker, act: Callable[[], T], during: str) -> T | Failed:
        try:
            return act()
        except SdxsError as error:
            said = f"{worker.entrant.label}, {during}: {error}"
        self._note(said)
        self._alive.pop(worker.entrant.label, None)
        worker.end()
        return Failed(said)
