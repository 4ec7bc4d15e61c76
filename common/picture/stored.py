"""The record inside a PNG as it is read back: what is in it is checked here, once.

A PNG may come from anywhere. A reader gets values of the right types, or an error that names the
first wrong one.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, TypeVar, get_type_hints

from ..damage import damage
from ..errors import UsageError, reason
from .record import SCHEMA, Still

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
MOST_FRAMES = 100_000_000  # of one session; a source is read again up to the frame of a record


class Damaged(ValueError):
    """A record does not fit; the message names the place."""


class OfLaterVersion(ValueError):
    """A record is of a later schema; the message names it and the version that wrote it."""


@dataclass(frozen=True, slots=True)
class StoredSource:
    """The source of a frame. frame: its number, from 0."""

    kind: str
    name: str
    frame: int = 0


@dataclass(frozen=True, slots=True)
class StoredLive:
    """What of a session bears on whether its frame can be rendered again."""

    view: str
    feedback: float
    ema: float
    blend: float
    mirror: bool
    gliding: bool
    reused: bool
    skip: float = 0.0
    enlarged: str = ""
    beside: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record, as far as a picture is repeated from it; the rest of it is for people."""

    __pydantic_config__ = {"strict": True, "allow_inf_nan": False}  # noqa: RUF012

    schema: int
    request: Still
    hashes: dict[str, str]
    settings: list[tuple[str, str]] = field(default_factory=list)
    sdxs: str = ""
    origin: str = ""
    backend: dict[str, object] = field(default_factory=dict)
    source: StoredSource | None = None
    live: StoredLive | None = None


def read_stored(text: str) -> tuple[StoredRecord, dict[str, object]]:
    """Read a record; return what is checked, and all of it. Raises Damaged, OfLaterVersion."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"it is not json: {reason(error)}") from None
    if not isinstance(values, dict):
        raise Damaged(f"record is {type(values).__name__}, expected dict")
    schema = values.get("schema")
    if isinstance(schema, int) and schema is not True and schema > SCHEMA:
        raise OfLaterVersion(
            f"its record is schema {schema:.0f}, written by sdxs "
            f"{values.get('sdxs', 'of a later version')!s:.40}"
        )
    try:
        record = _reader(StoredRecord).validate_json(text)
    except ValueError as error:
        raise Damaged(damage(error, "record")) from None
    if record.live and not record.source:
        raise Damaged("record.source is missing")
    if record.source and not 0 <= record.source.frame < MOST_FRAMES:
        raise Damaged("record.source.frame is not the number of a frame")
    return record, values


def check_request(still: Still) -> None:
    """Raise UsageError unless every field of a request is of its type."""
    from pydantic import ConfigDict, TypeAdapter

    for name, hint in get_type_hints(Still).items():
        reader: TypeAdapter[object] = TypeAdapter(
            hint, config=ConfigDict(strict=True, allow_inf_nan=False)
        )
        try:
            reader.validate_python(getattr(still, name))
        except ValueError as error:
            raise UsageError(f"{damage(error, name)}; see api.open_model") from None


@cache
def _reader(cls: type[T]) -> "TypeAdapter[T]":
    from pydantic import TypeAdapter

    return TypeAdapter(cls)
