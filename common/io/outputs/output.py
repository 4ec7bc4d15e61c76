"""An output: the newest picture goes out from a thread of its own, and the loop never waits.

A picture that the output cannot keep up with is dropped and counted. Where an output cannot be
reached it is tried again, at longer and longer intervals; where it has failed for good it ends,
and the session goes on.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...backend import copies
from ...errors import SdxsError, SinkError, SinkLost, reason
from .plan import Outlet

REPEAT_S = 0.5  # then the last picture is sent again, so that a pause ends nothing
FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 15.0  # between tries
CLOSE_S = 4.0  # more than a child is given to end


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of an output.

    name: without a password or a key. sent, dropped: pictures. ended: why it ended early, or ''.
    """

    name: str
    sent: int
    dropped: int
    ended: str


class Output:
    """Sends what `write` was given last. where: a line for the user, or ''."""

    def __init__(
        self,
        name: str,
        opened: Callable[[int, int], Outlet],
        where: str = "",
        release: Callable[[], None] = lambda: None,
        repeat_s: float | None = REPEAT_S,
    ) -> None:
        """Start nothing: the first picture does.

        opened: makes the outlet for pictures of a height and width, on the output's thread.
        release: frees what was taken before, once, also where no picture came. repeat_s: None
        sends every picture once.
        """
        self.name, self.where = name, where
        self._opened, self._release, self._repeat_s = opened, release, repeat_s
        self._changed = threading.Condition()
        self._back: np.ndarray | None = None
        self._ready: tuple[np.ndarray, float] | None = None
        self._front: tuple[np.ndarray, float] | None = None
        self._began_ns: int | None = None
        self._closing = threading.Event()
        self._sent = self._dropped = 0
        self._ended = ""
        self._notes: deque[str] = deque()
        self._thread = threading.Thread(target=self._run, name=f"sdxs-to-{name}", daemon=True)

    # The main thread.

    def write(self, picture: np.ndarray) -> None:
        """Take uint8 (H, W, 3) RGB in place of one that still waits; never waits, never raises."""
        if self._ended or self._closing.is_set():
            return
        now = time.perf_counter_ns()
        if self._began_ns is None:
            self._began_ns = now
        back = self._back
        if back is None or back.shape != picture.shape:
            back = np.empty_like(picture, order="C")
        np.copyto(back, picture)
        copies.count("output", picture.nbytes)
        with self._changed:
            waiting = self._ready
            self._ready = (back, (now - self._began_ns) / 1e9)
            self._dropped += waiting is not None
            self._back = waiting[0] if waiting else None
            self._changed.notify()
        if self._thread.ident is None:
            self._thread.start()

    def heard(self) -> list[str]:
        """Return what the user should know of since the last call."""
        notes = []
        while self._notes:
            notes.append(self._notes.popleft())
        return notes

    @property
    def said(self) -> Sent:
        return Sent(self.name, self._sent, self._dropped, self._ended)

    @property
    def has_ended(self) -> bool:
        """Whether it has failed for good."""
        return bool(self._ended)

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is to be waited for."""
        return self._closing.is_set()

    def close(self) -> None:
        """End it within a few seconds, whatever its receiver does; again does nothing."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
        release, self._release = self._release, lambda: None
        release()

    # The output's thread.

    def _run(self) -> None:
        outlet: Outlet | None = None
        failures = 0
        try:
            while (fresh := self._next()) is not None:
                assert self._front is not None
                picture, at_s = self._front
                try:
                    if outlet is None:
                        outlet = self._opened(picture.shape[0], picture.shape[1])
                    outlet.send(picture, at_s)
                except SinkLost as error:
                    _close(outlet)
                    outlet = None
                    failures += 1
                    self._say_lost(error, failures)
                    self._closing.wait(min(FIRST_PAUSE_S * 2 ** (failures - 1), MOST_PAUSE_S))
                    continue
                self._sent += fresh
                if failures:
                    failures = 0
                    self._notes.append(f"{self.name}: sends again")
        except Exception as error:  # a library's, too: it ends this output and nothing else
            self._end(error)
        finally:
            _close(outlet)

    def _next(self) -> bool | None:
        """Wait for a picture; False: the last one once more, None: there is nothing more to do."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready is not None or self._closing.is_set(), self._repeat_s
            )
            if self._closing.is_set():
                return None
            if self._ready is not None:
                spent, self._front, self._ready = self._front, self._ready, None
                if self._back is None and spent:
                    self._back = spent[0]
                return True
            assert self._front is not None and self._repeat_s is not None
            self._front = (self._front[0], self._front[1] + self._repeat_s)
            return False

    def _say_lost(self, error: SinkLost, failures: int) -> None:
        if failures == 1 and not self._closing.is_set():
            self._notes.append(f"{error}; it is tried again until it answers")

    def _end(self, error: Exception) -> None:
        if self._closing.is_set():
            return
        said = str(error) if isinstance(error, SdxsError) else f"{self.name}: {reason(error)}"
        self._ended = said
        self._notes.append(f"{said}; nothing more is sent there, and the session goes on")


def _close(outlet: Outlet | None) -> None:
    """Close an outlet; what it complains of then is of no use to anybody."""
    if outlet is not None:
        try:
            outlet.close()
        except (SdxsError, OSError):
            return


class Outputs:
    """Every output of a session."""

    def __init__(self, outputs: Sequence[Output] = (), alone: bool = False) -> None:
        """alone: nothing else shows or keeps the session, so that it ends with its last output."""
        self._outputs = tuple(outputs)
        self._alone = alone

    def __bool__(self) -> bool:
        return bool(self._outputs)

    @property
    def places(self) -> list[str]:
        """A line for the user for each output that has one."""
        return [each.where for each in self._outputs if each.where]

    @property
    def said(self) -> list[Sent]:
        return [each.said for each in self._outputs]

    def write(self, picture: np.ndarray) -> None:
        """Hand a picture to each. Raises SinkError if the last one of a session has ended."""
        if self._alone and self._outputs and all(each.has_ended for each in self._outputs):
            raise SinkError(
                f"{self._outputs[0].said.ended}; nothing else shows this session, so it ends"
            )
        for each in self._outputs:
            each.write(picture)

    def heard(self) -> list[str]:
        """Return what the user should know of since the last call."""
        return [note for each in self._outputs for note in each.heard()]

    def close(self) -> None:
        """End all of them side by side."""
        threads = [threading.Thread(target=each.close, daemon=True) for each in self._outputs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
