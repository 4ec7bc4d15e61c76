"""A mido backend in memory: ports of these names, and what a device would send to them."""

from collections.abc import Callable

from mido.messages import Message
from mido.ports import BaseInput

NAMES = ["nanoKONTROL2", "Launchpad Mini", "Launchpad Pro"]
opened: dict[str, "Input"] = {}


class Input(BaseInput):
    """A port that hands messages to its callback at once."""

    def _open(self, callback: Callable[[Message], None] | None = None, **_: object) -> None:
        if self.name not in NAMES:
            raise OSError(f"unknown port {self.name!r}")
        self.callback = callback
        opened[self.name] = self

    def _close(self) -> None:
        opened.pop(self.name, None)

    def send(self, message: Message) -> None:
        """Send by the wire's bytes, as a device does."""
        assert self.callback is not None
        self.callback(Message.from_bytes(message.bytes()))


def get_devices(**_: object) -> list[dict[str, object]]:
    return [{"name": name, "is_input": True, "is_output": False} for name in NAMES]
