"""OSC messages as bytes, by python-osc. Nothing here knows a socket.

python-osc reads texts and numbers. It loops for ever over a bundle with a negative size, logs what
it does not know and fills up what is cut off, so bundles and messages are taken apart here.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pythonosc import osc_message_builder
from pythonosc.parsing import osc_types

from ...errors import UsageError, in_a_line

Value = bool | int | float | str
_READERS: dict[str, tuple[int, Callable[[bytes, int], tuple[Value, int]]]] = {
    "i": (4, osc_types.get_int),
    "f": (4, osc_types.get_float),
    "h": (8, osc_types.get_int64),
    "d": (8, osc_types.get_double),
    "s": (4, osc_types.get_string),
}
TYPES = {*_READERS, "T", "F"}
MOST_ARGUMENTS = 16
MOST_NESTED = 4  # bundles in bundles
MOST_MESSAGES = 256  # in one datagram
_BUNDLE = b"#bundle\0"
_MOST_FLOAT = 3e38  # of 32 bits
_HEAD = 16  # of a bundle: its name and its time


@dataclass(frozen=True, slots=True)
class OscMessage:
    """One message: an address, '/sdxs/blend', and its arguments."""

    address: str
    values: tuple[Value, ...]


def decode(datagram: bytes) -> Iterator[OscMessage | UsageError]:
    """Return the messages of a datagram; in place of a malformed one, the reason.

    Bundles are taken apart at once; their times are not waited for.
    """
    for number, one in enumerate(_elements(datagram, 0), 1):
        if number > MOST_MESSAGES:
            yield UsageError(f"more than {MOST_MESSAGES} messages in one datagram; send fewer")
            return
        yield one if isinstance(one, UsageError) else _message(one)


def encode(address: str, *values: Value) -> bytes:
    """Return a message as bytes; a switch becomes 0 or 1, which every controller shows.

    A whole number of more than 64 bits becomes a text, which has every digit.
    """
    builder = osc_message_builder.OscMessageBuilder(address)
    for value in values:
        if isinstance(value, str):
            builder.add_arg(_plain(value), "s")
        elif isinstance(value, float):
            builder.add_arg(value, "f" if not abs(value) > _MOST_FLOAT else "d")
        elif abs(value) < 1 << 63:
            builder.add_arg(int(value), "i" if abs(value) < 1 << 31 else "h")
        else:
            builder.add_arg(in_a_line(value), "s")
    return builder.build().dgram


def _plain(text: str) -> str:
    """Return a text that UTF-8 can hold and that does not end before its end."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


def _elements(datagram: bytes, depth: int) -> Iterator[bytes | UsageError]:
    if not datagram.startswith(_BUNDLE):
        yield datagram
        return
    if depth == MOST_NESTED or len(datagram) < _HEAD:
        yield UsageError("a bundle that is cut off, or nested too deep; expected an OSC bundle")
        return
    at = _HEAD
    while at < len(datagram):
        size = struct.unpack_from(">i", datagram, at)[0] if at + 4 <= len(datagram) else -1
        at += 4
        if not 0 < size <= len(datagram) - at:
            yield UsageError("a bundle whose sizes make no sense; expected an OSC bundle")
            return
        yield from _elements(datagram[at : at + size], depth + 1)
        at += size


def _message(datagram: bytes) -> OscMessage | UsageError:
    """Read one message; what is no message, or has other types, is an error."""
    try:
        address, at = osc_types.get_string(datagram, 0)
        if not address.startswith("/"):
            return UsageError("no OSC message; expected an address such as /sdxs/blend")
        if at >= len(datagram):
            return OscMessage(address, ())
        tags, at = osc_types.get_string(datagram, at)
        others = set(tags[1:]) - TYPES
        if not tags.startswith(",") or others or len(tags) > MOST_ARGUMENTS + 1:
            return UsageError(
                f"{in_a_line(address)}: types {in_a_line(tags)!r}; expected at most "
                f"{MOST_ARGUMENTS} numbers, texts and booleans"
            )
        return OscMessage(address, tuple(_values(datagram, at, tags[1:])))
    except (osc_types.ParseError, UnicodeDecodeError) as error:
        return UsageError(f"a malformed OSC message ({in_a_line(error)})")


def _values(datagram: bytes, at: int, tags: str) -> Iterator[Value]:
    for tag in tags:
        if tag in "TF":
            yield tag == "T"
            continue
        size, read = _READERS[tag]
        if at + size > len(datagram):  # python-osc would take zeros for what is missing
            raise osc_types.ParseError("it is cut off")
        value, at = read(datagram, at)
        yield value
