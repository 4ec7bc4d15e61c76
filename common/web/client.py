"""One page or program at the socket: what waits for it, bounded, and sent by a task of its own.

Answers are kept in order; of news only the latest of each kind; of frames the newest one, as long
as the client has credit. A client that reads slowly drops frames and holds nobody up; one that
reads nothing is left.
"""

import asyncio
import json
from collections import deque
from typing import Protocol

from .frames import PICTURE, Encoded
from .messages import MOST_CREDIT

MOST_ANSWERS = 256
MESSAGES_PER_S, BURST = 200.0, 400.0
MOST_LATE = 2000  # messages in a row beyond the rate; then the client is left
SENDS_PER_S = 400.0  # of frames, of all clients together


class Wire(Protocol):
    """What a client is reached by; a WebSocket."""

    async def send_text(self, data: str) -> None: ...

    async def send_bytes(self, data: bytes) -> None: ...


class Client:
    """One connection. Server's thread only."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.layers: frozenset[str] = frozenset({PICTURE})
        self.credit = 0
        self.steers = False
        self.shown = self.dropped = 0
        self.share_s = 0.0  # between two frames, where many look on
        self.ended = asyncio.Event()  # it is to be left
        self._answers: deque[str] = deque()
        self._news: dict[str, str] = {}
        self._frame: Encoded | None = None
        self._credit_given = 0
        self._out: deque[int] = deque()
        self._earliest = 0.0
        self._wake = asyncio.Event()

    @property
    def origin(self) -> str:
        """What the session calls it."""
        return f"page {self.number}"

    # What is to be said.

    def answer(self, message: dict[str, object]) -> None:
        """Say something once, in order; to one that reads nothing no more is said."""
        if len(self._answers) >= MOST_ANSWERS:
            self.ended.set()
            return
        self._answers.append(packed(message))
        self._wake.set()

    def tell(self, kind: str, text: str) -> None:
        """Say something that a later message of its kind replaces."""
        self._news[kind] = text
        self._wake.set()

    def offer(self, frame: Encoded) -> None:
        """Take a frame in place of one that still waits."""
        if not self._credit_given:
            return
        self.dropped += self._frame is not None
        self._frame = frame
        self._wake.set()

    # What the client says of frames.

    def show(self, layers: frozenset[str], credit: int) -> None:
        """Choose layers, and how many frames may be on their way."""
        self.layers = layers
        self._credit_given = max(0, min(credit, MOST_CREDIT))
        self.credit = max(0, self._credit_given - len(self._out))
        if not self._credit_given:
            self._frame = None
        self._wake.set()

    def has_shown(self, frame: int) -> None:
        """Take back the credit of a frame, and of those before it."""
        if frame not in self._out:
            return  # said twice, or never sent
        while self._out and self._out.popleft() != frame:
            self.shown += 1
        self.shown += 1
        self.credit = max(0, self._credit_given - len(self._out))
        self._wake.set()

    @property
    def wanted(self) -> frozenset[str]:
        """Layers that it could take now."""
        return self.layers if self.credit else frozenset()

    async def send(self, wire: Wire) -> None:
        """Send what waits, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._answers or self._news:
                if self._answers:
                    await wire.send_text(self._answers.popleft())
                else:
                    await wire.send_text(self._news.pop(next(iter(self._news))))
            if self._frame is None or not self.credit:
                continue
            if not self.layers & self._frame.layers.keys():
                self._frame = None  # it has changed its mind meanwhile
            elif (now := loop.time()) < self._earliest:
                loop.call_later(self._earliest - now, self._wake.set)
            else:
                frame, self._frame = self._frame, None
                self._earliest = now + self.share_s
                self._out.append(frame.id)
                self.credit -= 1
                await wire.send_bytes(frame.message(self.layers))


class Pace:
    """How fast one client may speak: whoever is faster is read later."""

    def __init__(self) -> None:
        self._left, self._at, self._late = BURST, 0.0, 0

    async def wait(self) -> bool:
        """Wait until one more message may be read; False if there were far too many."""
        now = asyncio.get_running_loop().time()
        if self._at:
            self._left = min(BURST, self._left + (now - self._at) * MESSAGES_PER_S)
        self._at = now
        self._left -= 1
        if self._left >= 0:
            self._late = 0
            return True
        self._late += 1
        await asyncio.sleep(-self._left / MESSAGES_PER_S)
        return self._late < MOST_LATE


def packed(message: dict[str, object]) -> str:
    """Write a message as JSON."""
    return json.dumps(message, separators=(",", ":"))
