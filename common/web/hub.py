"""Who looks at a session, who steers, and what they are told. Server's thread, but for `__init__`.

The first to come steers; another may ask, and gets it when the first gives it away or leaves.
Programs at the HTTP part of the API are not asked: whoever has the token may use it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from ..errors import UsageError, in_a_line
from ..io.inputs.controls import Controls, News
from ..io.inputs.keys import ROWS
from ..io.inputs.reading import EVENTS
from ..live.parameters import TABLE, Change, Event, LiveParameters, Set, Step
from ..live.standing import Standing
from ..picture.size import FrameSize
from ..prompt.syntax import GALLERY, parse_prompt
from .client import SENDS_PER_S, Client, packed
from .frames import Encoded, Screen
from .messages import (
    PROTOCOL,
    ChangeMessage,
    ShowMessage,
    ShownMessage,
    SteerMessage,
    row_as_json,
)

MOST_CLIENTS = 64


@dataclass(frozen=True, slots=True)
class Facts:
    """What stays so in a session. camera: a page may send its camera's pictures."""

    model: str
    size: FrameSize
    aspect: float
    camera: bool


class Hub:
    """Knows the clients, and hands what they ask to the session."""

    def __init__(self, facts: Facts, screen: Screen) -> None:
        self.facts = facts
        self.screen = screen
        self.controls: Controls | None = None
        self.standing: Standing | None = None
        self.memory_bytes = 0
        self.last: Encoded | None = None
        self.clients: dict[int, Client] = {}
        self._numbers = 0
        self._asking: list[int] = []

    # Clients.

    def enter(self) -> Client | None:
        """Let one more in; None if there are too many."""
        if len(self.clients) >= MOST_CLIENTS:
            return None
        self._numbers += 1
        client = Client(self._numbers)
        self.clients[client.number] = client
        client.steers = not any(each.steers for each in self.clients.values())
        client.answer(self.hello(client))
        client.tell("values", self._values())
        client.tell("figures", packed(self.figures()))
        self._tell_people()
        return client

    def leave(self, client: Client) -> None:
        """Forget a client; who asked first, or else came first, steers after it."""
        self.clients.pop(client.number, None)
        self._forget(client.number)
        if client.steers and self.clients:
            heir = self._asking[0] if self._asking else next(iter(self.clients))
            self._give(heir)
        self._tell_people()
        self.want()

    def hear(self, client: Client, message: object) -> None:
        """Do what a client asks. Raises UsageError."""
        match message:
            case ShownMessage():
                client.has_shown(message.frame)
                self.want()
            case ShowMessage():
                self._show(client, message)
            case SteerMessage():
                self._steer(client, message)
            case _ if isinstance(message, ChangeMessage):
                self._change(client, message)

    def want(self) -> None:
        """Let the encoder know what somebody could take."""
        wanted: frozenset[str] = frozenset()
        for each in self.clients.values():
            wanted |= each.wanted
        self.screen.want(wanted & frozenset(self.screen.layers))

    # What happens in the session.

    def deliver(self, frame: Encoded) -> None:
        """Offer a frame to all."""
        self.last = frame
        for each in self.clients.values():
            each.offer(frame)
        self.screen.delivered()

    def happened(self, news: News) -> None:
        """Tell all what has changed."""
        if news.names:
            self._tell("values", self._values(news.origin))

    def stands(self, standing: Standing) -> None:
        """Tell all how the session stands."""
        self.standing = standing
        self._tell("figures", packed(self.figures()))

    def end(self) -> None:
        """Tell all that the session is over."""
        self._tell("over", packed({"type": "over"}))

    # What is said.

    def hello(self, client: Client) -> dict[str, object]:
        """What a client needs to know once."""
        facts = self.facts
        return {
            "type": "hello",
            "protocol": PROTOCOL,
            "you": client.number,
            "model": facts.model,
            "width": facts.size.width,
            "height": facts.size.height,
            "aspect": facts.aspect,
            "layers": list(self.screen.layers),
            "camera": facts.camera,
            "parameters": self.rows(),
            "events": list(EVENTS),
            "keys": [
                {
                    "label": row.label,
                    "help": row.help,
                    "changes": {key: _as_message(change) for key, change in row.changes.items()},
                }
                for row in ROWS
            ],
            "gallery": list(GALLERY),
        }

    def rows(self) -> list[dict[str, object]]:
        """Every parameter as a page draws it."""
        unusable = self.controls.unusable if self.controls else {}
        return [row_as_json(row, unusable.get(name, "")) for name, row in TABLE.items()]

    def values(self) -> dict[str, object]:
        """Every parameter by name."""
        return asdict(self._now())

    def figures(self) -> dict[str, object]:
        """How the session stands."""
        standing = self.standing.as_json() if self.standing else {"loading": True}
        return {"type": "figures", **standing, "memory_bytes": self.memory_bytes}

    def people(self) -> dict[str, object]:
        """Who is here."""
        steers = next((each.number for each in self.clients.values() if each.steers), None)
        return {
            "type": "people",
            "steers": steers,
            "asking": list(self._asking),
            "here": list(self.clients),
        }

    def _now(self) -> LiveParameters:
        return self.controls.values if self.controls else LiveParameters()

    def _values(self, origin: str = "") -> str:
        values = self._now()
        parsed = parse_prompt(values.prompt)
        stops, below = (
            [" and ".join(part.text for part in stop) for stop in row]
            for row in (parsed.stops, parsed.below)
        )
        said = {"values": asdict(values), "stops": stops, "below": below, "origin": origin}
        return packed({"type": "values", **said})

    def _tell(self, kind: str, text: str) -> None:
        for each in self.clients.values():
            each.tell(kind, text)

    def _tell_people(self) -> None:
        # The steering page gets every frame; others share what the server can send.
        many = len(self.clients) / SENDS_PER_S
        for each in self.clients.values():
            each.share_s = 0.0 if each.steers else many
        self._tell("people", packed(self.people()))

    # What clients ask.

    def _show(self, client: Client, message: ShowMessage) -> None:
        unknown = [each for each in message.layers if each not in self.screen.layers]
        if unknown or not message.layers:
            raise UsageError(
                f"layers {in_a_line(unknown)}: expected some of {', '.join(self.screen.layers)}"
            )
        client.show(frozenset(message.layers), message.credit)
        if self.last:
            client.offer(self.last)
        self.want()

    def _change(self, client: Client, message: ChangeMessage) -> None:
        if not client.steers:
            raise UsageError("another page steers; ask it to let you")
        loop = asyncio.get_running_loop()

        def said(error: str) -> None:
            if message.id is not None or error:
                reply: dict[str, object] = {"type": "answer", "id": message.id, "error": error}
                with suppress(RuntimeError):  # the server has ended
                    loop.call_soon_threadsafe(client.answer, reply)

        self.offer(message.change, client.origin, said)

    def offer(self, change: Change, origin: str, answer: Callable[[str], None]) -> None:
        """Hand a change to the session. Raises UsageError before there is one."""
        if self.controls is None:
            raise UsageError("the session has not begun; try again")
        self.controls.offer(change, origin, answer)

    def _steer(self, client: Client, message: SteerMessage) -> None:
        number = client.number
        if message.do == "ask" and not client.steers:
            if number not in self._asking:
                self._asking.append(number)
            if not any(each.steers for each in self.clients.values()):
                self._give(number)
        elif message.do == "withdraw":
            self._forget(number)
        elif message.do == "keep" and client.steers:
            self._asking.clear()
        elif message.do == "give" and client.steers:
            if message.to not in self.clients:
                raise UsageError(f"there is no page {message.to} to give the steering to")
            self._give(message.to)
        self._tell_people()

    def _give(self, number: int) -> None:
        for each in self.clients.values():
            each.steers = each.number == number
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._asking = [each for each in self._asking if each != number]


def _as_message(change: Change) -> dict[str, object]:
    """Write a key's change as the message that asks for it."""
    if isinstance(change, Event):
        return {"do": "event", "name": change.value.replace(" ", "_")}
    if isinstance(change, Set):
        return {"do": "set", "name": change.name, "value": change.value}
    assert isinstance(change, Step)
    return {"do": "step", "name": change.name, "delta": change.delta}
