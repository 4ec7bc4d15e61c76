"""Read a stored JSON of bench, which anybody may have edited: reports, and files of `--submit`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...damage import damage
from ...errors import UsageError, reason
from .sound import unsound

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
Hook = Callable[[dict[str, object]], dict[str, object]]


def read_values(
    path: Path,
    option: str,
    hook: Hook | None = None,
    most_bytes: int | None = None,
    too_large: str = "",
) -> object:
    """Return the values of a file that `sdxs bench` wrote with an option.

    hook: what `json.loads` calls with every object. most_bytes: the limit, if any; too_large: its
    remedy. Raises UsageError for a file that is missing, larger, or no JSON.
    """
    try:
        data = path.read_bytes()
        if most_bytes is not None and len(data) > most_bytes:
            raise UsageError(
                f"{path}: {len(data):,} bytes, expected at most {most_bytes:,}; {too_large}"
            )
        return json.loads(data, object_hook=hook)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: not readable as json ({reason(error)}); expected a file that `sdxs bench "
            f"{option}` wrote"
        ) from None


def checked(
    reader: "TypeAdapter[T]",
    values: object,
    path: Path,
    root: str,
    remedy: str,
    strange: Callable[[T], str] = lambda _: "",
) -> T:
    """Return the values as a dataclass.

    root: what the whole is called. strange: says what else is wrong, or ''. Raises UsageError for
    values of another form, or that no machine can have measured.
    """
    try:
        found = reader.validate_json(json.dumps(values))
    except ValueError as error:
        raise UsageError(f"{path}: damaged: {damage(error, root)}; {remedy}") from None
    if trouble := unsound(found) or strange(found):
        raise UsageError(f"{path}: damaged: {trouble}; {remedy}")
    return found
