"""Ableton Link: one tempo and one beat with the other programs of a network.

aalink wraps Ableton's library. It is under the GPL-3, so sdxs neither ships nor installs it; users
do. A thread reads tempo and beat, and hands over a tempo that was tapped or set here.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol, cast

from aalink import Link

from .controls import Controls
from .tempo import FASTEST, SLOWEST, Tempo

EVERY_S = 0.02
BAR = 4.0  # beats whose first is the same for all, unless changes wait for another number


class Session(Protocol):
    """What aalink.Link is to us. beat: of the shared count, modulo `quantum`. tempo: a minute."""

    enabled: bool
    quantum: float
    tempo: float

    @property
    def beat(self) -> float: ...

    @property
    def num_peers(self) -> int: ...


Opener = Callable[[float], Session]


class LinkInput:
    """Leads the beat of a session by Link. See `Input`."""

    def __init__(
        self,
        tempo: Tempo,
        clock: Callable[[], float],
        on_beat: float = 0.0,
        opener: Opener | None = None,
    ) -> None:
        """on_beat: beats that changes wait for, which is then the bar. opener: aalink's own."""
        self._tempo, self._clock, self._bar = tempo, clock, on_beat or BAR
        self._open = opener or _open
        self._link: Session | None = None
        self._peers = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sdxs-link", daemon=True)

    def start(self, controls: Controls) -> None:
        self._controls = controls
        self._link = self._open(self._tempo.bpm)
        self._link.quantum = self._bar
        self._link.enabled = True
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        link, self._link = self._link, None
        if link is not None:
            link.enabled = False

    def look(self) -> None:
        """Give Link a tempo that was tapped or set here; without one, take Link's tempo."""
        assert self._link is not None
        asked = self._tempo.take_asked()
        if asked is not None:
            self._link.tempo = asked
        bpm = min(FASTEST, max(SLOWEST, float(self._link.tempo)))
        self._tempo.lead(bpm, float(self._link.beat), self._clock())
        peers = int(self._link.num_peers)
        if peers != self._peers:
            self._peers = peers
            self._controls.say(f"Link: {peers} other program{'s' if peers != 1 else ''}")

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self.look()
                self._over.wait(EVERY_S)
        except BaseException as error:
            self._controls.fail(error)


def _open(bpm: float) -> Session:
    async def made() -> Session:
        return cast(Session, Link(bpm))

    # aalink takes the running loop for its futures, of which we ask none
    return asyncio.run(made())
