"""Read a film from a process of its own."""

import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from typing import TypeVar

import numpy as np

from ...backend.process.child import Done, settle_in
from ...backend.process.shared_frames import SLOTS
from ...errors import SdxsError, SourceError, SourceLost
from .plan import Film, FilmFacts
from .process import Order, child_of, received, refusal, sent, shared, shared_by_parent

AHEAD = SLOTS - 1  # pictures that are decoded ahead; one is with the reader
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture was read. stamp_s: its time, minus infinity if it has none, None at the end.

    errors, cut_off: see `Decoder`.
    """

    stamp_s: float | None
    errors: int
    cut_off: bool


class FilmReader:
    """Pictures of a film, decoded ahead in a process of their own."""

    def __init__(self, film: Film) -> None:
        """Raise SourceError if it cannot be opened."""
        self._child = child_of(film.name, _serve_reader, film)
        self._end = weakref.finalize(self, self._child.end, Order.CLOSE)
        try:
            self.facts = self._ask(FilmFacts)
        except SdxsError as error:
            self.close()
            raise SourceError(str(error)) from None
        self.errors, self.cut_off = 0, False
        self._memory = shared(self._child, (self.facts.height, self.facts.width, 3), made=True)
        self._asked: deque[int] = deque()
        self._next_slot = 0

    def read(self) -> tuple[np.ndarray, float] | None:
        """Return the next picture, uint8 (H, W, 3) BGR, and its time in seconds; None at the end.

        The picture is valid until the next call. Raises SourceLost.
        """
        while len(self._asked) < AHEAD:
            sent(self._child, SourceLost, self._next_slot)
            self._asked.append(self._next_slot)
            self._next_slot = (self._next_slot + 1) % SLOTS
        slot = self._asked.popleft()
        answer = self._ask(Picture)
        self.errors, self.cut_off = answer.errors, answer.cut_off
        if answer.stamp_s is None:
            return None
        return self._memory.made[slot], answer.stamp_s

    def rewind(self) -> None:
        """Begin again. Raises SourceLost."""
        while self._asked:
            self._asked.popleft()
            self._ask(Picture)
        sent(self._child, SourceLost, Order.REWIND)
        self._ask(Done)

    def close(self) -> None:
        """End the process; calling it again does nothing."""
        self._end()

    def _ask(self, expected: type[T]) -> T:
        return received(self._child, SourceLost, expected)


# The child's side.


def _serve_reader(pipe: connection.Connection, film: Film) -> None:
    settle_in()
    from .decode import Decoder

    with suppress(EOFError, OSError):  # the parent has ended
        try:
            decoder = Decoder(film)
        except BaseException as error:  # the parent must receive every exception
            pipe.send(refusal(error))
            pipe.recv()  # the parent's last request
            return
        pipe.send(decoder.facts)
        shape = (decoder.facts.height, decoder.facts.width, 3)
        memory = shared_by_parent(pipe, shape, made=True)
        while (request := pipe.recv()) is not Order.CLOSE:
            try:
                if request is Order.REWIND:
                    decoder.rewind()
                    pipe.send(Done())
                    continue
                stamp_s = decoder.read(memory.made[request])
                pipe.send(Picture(stamp_s, decoder.errors, decoder.cut_off))
            except Exception as error:
                pipe.send(refusal(error))
        decoder.close()
