"""Ways to damage bytes and JSON, each with words for it; all are drawn from a seed."""

import json
from pathlib import Path
from random import Random

ODD_VALUES: tuple[object, ...] = (
    None, True, -1, 0, 10**12, 10**400, 1e308, float("nan"), float("inf"), "", "\0", "8", [], [[]],
    {}, "a" * 300, "../..", [None] * 3,
)  # fmt: skip
DEEP = "[" * 100_000
NOT_JSON = ("", "null", "[]", "{", DEEP, '{"a":' * 50_000, "\ufeff{}", "1" * 5000, "NaN")


def flipped(content: bytes, share: float, bit: int) -> bytes:
    """Flip one bit at a share of the length."""
    at = min(len(content) - 1, int(share * len(content)))
    made = bytearray(content)
    made[at] ^= 1 << bit
    return bytes(made)


def overwritten(content: bytes, share: float, new: bytes) -> bytes:
    """Write bytes over those at a share of the length."""
    at = int(share * len(content))
    return content[:at] + new + content[at + len(new) :]


def places(value: object, at: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Return the place of everything within a value of JSON, the first three of a list."""
    inner: list[tuple[object, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value[:3]))
    return [*([at] if at else []), *(p for key, one in inner for p in places(one, (*at, key)))]


def replaced(value: object, at: tuple[object, ...], new: object) -> object:
    """Return a value of JSON with another one at a place; `...` leaves the place out."""
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)  # type: ignore[call-overload]
    if len(at) == 1 and new is ...:
        del copy[at[0]]
    else:
        copy[at[0]] = replaced(copy[at[0]], at[1:], new)
    return copy


def odd_json(sound: object, draw: Random) -> tuple[str, str]:
    """Draw a damaged JSON near a sound one: what was done in words, and its text."""
    at = draw.choice(places(sound))
    name = ".".join(map(str, at))
    if draw.random() < 0.15:
        return f"{name} left out", json.dumps(replaced(sound, at, ...))
    new = draw.choice(ODD_VALUES)
    return f"{name} is {shown(new)}", json.dumps(replaced(sound, at, new))


def shown(value: object) -> str:
    """A value in a few characters."""
    text = json.dumps(value) if not isinstance(value, int) or abs(value) < 10**100 else "10**400"
    return text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)"


def write(path: Path, content: bytes | str) -> None:
    """Write a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    )
