"""Typed access to a json object: every error names file, key, value and the expected value."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ConfigError, reason
from ..weights_file import pointer_note

# Above any real network by far; what a config asks for is computed and built before it is compared.
MOST_COUNT = 1 << 20  # channels, tokens, timesteps
MOST_LAYERS = 128  # of one block
MOST_BLOCKS = 12  # each halves the picture
MOST_JSON_BYTES = 32 << 20  # a vocabulary has less than 2 MB

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class Fields:
    """Give typed access to one json object.

    where: the file, for messages. remedy: the last part of every message. Methods raise
    ConfigError, which names file, key, value and the expected value.
    """

    def __init__(
        self,
        values: Mapping[str, JsonValue],
        where: str,
        remedy: str = "this checkpoint needs a network that sdxs does not implement",
    ) -> None:
        self.values = values
        self.where = where
        self.remedy = remedy

    def fail(self, key: str, expected: str) -> ConfigError:
        """Return the error for a key; the caller raises it."""
        found = f"is {json.dumps(self.values[key]):.60}" if key in self.values else "is absent"
        return ConfigError(f"{self.where}: {key} {found}, expected {expected}; {self.remedy}")

    def require(self, key: str, admitted: Sequence[JsonValue], default: JsonValue = None) -> None:
        """Raise ConfigError for a value outside `admitted`; an absent key counts as `default`."""
        value = self.values.get(key, default)
        # in json 1 and 1.0 are the same number, 1 and true are different values
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in admitted):
            raise self.fail(key, " or ".join(json.dumps(a) for a in admitted))

    def integer(
        self, key: str, default: int | None = None, minimum: int = 1, most: int = MOST_COUNT
    ) -> int:
        """Return a whole number, `minimum` to `most`."""
        value = self.values.get(key, default)
        numbers = _whole([value], minimum)
        if not numbers:
            raise self.fail(key, f"a whole number of at least {minimum}")
        self._limit(key, numbers, most)
        return numbers[0]

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        # json.loads accepts NaN and Infinity, and whole numbers that no float holds
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not abs(value) <= sys.float_info.max
        ):
            raise self.fail(key, "a finite number")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise self.fail(key, "a number above 0")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.fail(key, "a string")
        return value

    def integers(
        self,
        key: str,
        default: Sequence[int] | None = None,
        minimum: int = 1,
        most: int = MOST_COUNT,
    ) -> tuple[int, ...]:
        """Return a list of whole numbers, `minimum` to `most`: one for each of a few blocks."""
        value = self.values.get(key, list(default) if default is not None else None)
        numbers = _whole(value, minimum)
        if not numbers:
            raise self.fail(key, f"a list of whole numbers of at least {minimum}")
        if len(numbers) > MOST_BLOCKS:
            raise self.fail(key, f"at most {MOST_BLOCKS} numbers, one for each block")
        self._limit(key, numbers, most)
        return numbers

    def per_block(
        self, key: str, blocks: int, default: int, most: int = MOST_LAYERS
    ) -> tuple[int, ...]:
        """Return one whole number per block, 1 to `most`, from a number or a list."""
        value = self.values.get(key, default)
        numbers = _whole(value if isinstance(value, list) else [value] * blocks, 1)
        if len(numbers) != blocks:
            raise self.fail(key, f"a whole number of at least 1, or a list of {blocks}")
        self._limit(key, numbers, most)
        return numbers

    def _limit(self, key: str, numbers: Sequence[int], most: int) -> None:
        """Raise ConfigError for a number that no network has: it would take the memory first."""
        if max(numbers) > most:
            raise self.fail(key, f"at most {most:,}")

    def flag_per_block(self, key: str, blocks: int) -> tuple[bool, ...]:
        """Return one flag per block, from a flag or a list; false if absent."""
        value = self.values.get(key, False)
        flags = [
            v
            for v in (value if isinstance(value, list) else [value] * blocks)
            if isinstance(v, bool)
        ]
        if len(flags) != blocks or (isinstance(value, list) and len(value) != blocks):
            raise self.fail(key, f"true or false, or a list of {blocks}")
        return tuple(flags)


def _whole(values: JsonValue, minimum: int) -> tuple[int, ...]:
    """Return the values if they are a list of whole numbers of at least `minimum`, else ()."""
    if not isinstance(values, list):
        return ()
    numbers = tuple(
        v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= minimum
    )
    return numbers if len(numbers) == len(values) else ()


def read_json(path: Path) -> Fields:
    """Read one json object. Raises ConfigError if it is absent, damaged or not an object."""
    try:
        if path.stat().st_size > MOST_JSON_BYTES:  # a read of so much would take it at once
            raise ValueError(f"more than {MOST_JSON_BYTES:,} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: file is missing; a checkpoint needs it, pull or copy it again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        trouble = pointer_note(path) or f" ({reason(error)})"
        raise ConfigError(
            f"{path}: not readable as json{trouble}; pull or copy the file again"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected a json object, found {in_json(values)}; pull or copy the file again"
        )
    return Fields(values, str(path))


def in_json(value: object) -> str:
    """Return the name that JSON has for the kind of a value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds: dict[type, str] = {list: "a list", dict: "an object", str: "a text"}
    return kinds.get(type(value), "a number")


def block_types(fields: Fields, key: str, known: Sequence[str], blocks: int) -> tuple[str, ...]:
    names = fields.values.get(key)
    if not isinstance(names, list) or len(names) != blocks or any(n not in known for n in names):
        raise fields.fail(key, f"{blocks} of " + ", ".join(known))
    return tuple(str(n) for n in names)
