"""Settings declared once: type, range, unit, default and help of a dataclass field.

A frozen dataclass declares its fields with `setting`; no other place repeats names, ranges or
defaults. `settings_of` generates the command line's options, `NAME:key=value`, the help and the
tables in docs/ from it. `check_settings` validates its values.
"""

import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import UsageError, in_a_line
from .files import expanded

_KEY = "sdxs.setting"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """Describe one setting: its type, range, default and help.

    kind: bool, int, float, str or Path.
    optional: None is a valid value; the code then chooses.
    choices: the valid values of a str.
    minimum, maximum: bounds of a number, inclusive.
    unit: unit of a number.
    shown: the default in words, if it is None or needs an explanation.
    flag: its option on the command line; '--yes/--no' for a switch with both names.
    read, write: parse and format a value of any other type; `read` raises UsageError.
    glides: a change may be spread over time.
    at_start: fixed once a session runs.
    why: reason for the range, appended to the error message.
    repeatable: the value is a tuple with one entry per occurrence of the option.
    """

    name: str
    kind: type
    default: object
    help: str
    optional: bool = False
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    shown: str = ""
    flag: str = ""
    read: Callable[[str], object] | None = None
    write: Callable[[Any], str] | None = None
    glides: bool = False
    at_start: bool = False
    why: str = ""
    repeatable: bool = False

    @property
    def parameter(self) -> str:
        """The flag as a Python name, unique across backends; the field's name if it has no flag."""
        return self.spelling.removeprefix("--").replace("-", "_") or self.name

    @property
    def spelling(self) -> str:
        """The option as messages name it: '--yes' of '--yes/--no'; '' without a flag."""
        return self.flag.partition("/")[0]

    @property
    def default_text(self) -> str:
        """The default as the help shows it."""
        if self.shown:
            return self.shown
        if self.default is None or self.default == "" or self.default == ():
            return "none"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def range_text(self) -> str:
        """The valid range in words, with its unit; empty without a bound."""
        low, high = (None if x is None else f"{x:g}" for x in (self.minimum, self.maximum))
        if low is None and high is None:
            return ""
        if high is None:
            return f"at least {low}"
        return f"{'up' if low is None else low} to {high} {self.unit}".strip()

    @property
    def expected(self) -> str:
        """The valid values in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is bool:
            return "on or off"
        if self.kind not in (int, float):
            return "a path" if self.kind is Path else "a text"
        noun = "a whole number" if self.kind is int else "a number"
        low, high = (None if x is None else f"{x:g}" for x in (self.minimum, self.maximum))
        if low is not None and high is not None:
            return f"{noun} from {low} to {high}"
        if low is not None:
            return f"{noun} of at least {low}"
        return noun if high is None else f"{noun} of at most {high}"

    def parse(self, text: str, where: str = "") -> object:
        """Parse and check a value.

        where: the setting as the user spelled it. Raises UsageError.
        """
        return self.parse_all([text], where) if self.repeatable else self._parse(text, where)

    def parse_all(self, texts: Iterable[str], where: str = "") -> tuple[object, ...]:
        """Parse the values of a repeatable setting. Raises UsageError."""
        return tuple(self._parse(text, where) for text in texts)

    def _parse(self, text: str, where: str) -> object:
        if self.read is not None:
            return self.read(text)
        value: object = text
        if self.kind is Path:
            if not text.strip():
                raise UsageError(f"{where or self.spelling} is empty; name a file or a folder")
            value = expanded(text)
        try:
            if self.kind is bool:
                value = {
                    "on": True,
                    "yes": True,
                    "true": True,
                    "off": False,
                    "no": False,
                    "false": False,
                }[text.lower()]
            elif self.kind in (int, float):
                value = self.kind(text)
        except (ValueError, KeyError):
            raise self._refused(text, where) from None
        return self._check(value, where)

    def check(self, value: object, where: str = "") -> object:
        """Return `value` if it is valid. Raises UsageError that states the valid values."""
        if not self.repeatable:
            return self._check(value, where)
        if not isinstance(value, tuple):
            raise self._refused(value, where)
        for each in value:
            self._check(each, where)
        return value

    def _check(self, value: object, where: str) -> object:
        if value is None and self.optional:
            return value
        if self.read is not None:
            if not self._is_read(value):
                raise self._refused(value, where)
            return value
        if self.kind is bool or isinstance(value, bool):
            right = isinstance(value, bool) and self.kind is bool
        elif self.kind is float:
            right = isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
        else:
            right = isinstance(value, self.kind)
        if right and self.choices:
            right = value in self.choices
        if right and isinstance(value, (int, float)) and not isinstance(value, bool):
            right = (self.minimum is None or value >= self.minimum) and (
                self.maximum is None or value <= self.maximum
            )
        if not right:
            raise self._refused(value, where)
        return value

    def _is_read(self, value: object) -> bool:
        """Tell whether a value is of the kind that `read` returns, as far as `write` can tell."""
        if self.read is None or self.write is None:
            return True
        try:
            return isinstance(value, type(self.read(self.write(value))))
        except (TypeError, ValueError, AttributeError, UsageError):
            return False

    def text(self, value: object) -> str:
        """Format a value such that `parse` reads it back."""
        if self.write is not None:
            return self.write(value)
        return ("on" if value else "off") if isinstance(value, bool) else str(value)

    def _refused(self, value: object, where: str) -> UsageError:
        where = where or self.spelling or self.name
        between = "" if where.endswith("=") else " "
        why = f"; {self.why}" if self.why else ""
        return UsageError(f"{where}{between}{in_a_line(value)}: expected {self.expected}{why}")


def setting(
    default: Any,  # as in dataclasses.field: the field's annotation is its type
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    shown: str = "",
    flag: str | None = None,
    read: Callable[[str], object] | None = None,
    write: Callable[[Any], str] | None = None,
    glides: bool = False,
    at_start: bool = False,
    why: str = "",
) -> Any:
    """Declare a field of a frozen dataclass as a setting; see `Setting`.

    flag: `--name` by default; '' for no option on the command line.
    """
    values = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "unit": unit,
        "shown": shown,
        "read": read,
        "write": write,
        "glides": glides,
        "at_start": at_start,
        "why": why,
    } | ({} if flag is None else {"flag": flag})
    return field(default=default, metadata={_KEY: values})


def repeated(cls: type, name: str, **changed: object) -> Any:
    """Declare a field with the range and help it has in another dataclass.

    changed: `default` and arguments of `setting` that differ.
    """
    (found,) = (each for each in fields(cls) if each.name == name)
    default = changed.pop("default", found.default)
    return field(default=default, metadata={_KEY: found.metadata[_KEY] | changed})


def settings_of(cls: type) -> tuple[Setting, ...]:
    """Return the settings of a dataclass in field order; other fields are left out."""
    return _declared(cls)


@cache
def _declared(cls: type) -> tuple[Setting, ...]:
    hints, found = get_type_hints(cls), []
    for each in fields(cls):
        if _KEY not in each.metadata:
            continue
        assert each.default is not MISSING
        values = {"flag": f"--{each.name.replace('_', '-')}"} | each.metadata[_KEY]
        hint = hints[each.name]
        values["repeatable"] = get_origin(hint) is tuple and values["read"] is None
        kind, optional, choices = _kind(get_args(hint)[0] if values["repeatable"] else hint)
        found.append(
            Setting(each.name, kind, each.default, values.pop("help"), optional, choices, **values)
        )
    return tuple(found)


def check_settings(values: object) -> None:
    """Check every setting of a dataclass against its declaration; for `__post_init__`.

    Raises UsageError.
    """
    for each in settings_of(type(values)):
        each.check(getattr(values, each.name))


def parse_settings(cls: type[T], texts: Mapping[str, str], owner: str, **others: object) -> T:
    """Build a dataclass from texts by name, as given in `NAME:key=value`.

    owner: name of the component, for messages. others: its other fields. Raises UsageError.
    """
    return cls(**others, **parse_texts(cls, texts, owner))


def parse_texts(cls: type, texts: Mapping[str, str], owner: str) -> dict[str, object]:
    """Parse values by setting name. owner: name of the component. Raises UsageError."""
    known = known_settings(cls, texts, owner)
    return {name: known[name].parse(text, f"{owner}:{name}=") for name, text in texts.items()}


def known_settings(cls: type, given: Iterable[str], owner: str) -> dict[str, Setting]:
    """Return the settings of a dataclass by name. Raises UsageError for an unknown name."""
    known = {each.name: each for each in settings_of(cls)}
    for name in given:
        if name not in known:
            raise UsageError(
                f"{owner}: unknown setting {name!r}; known are {', '.join(known) or 'none'}"
            )
    return known


def changed_texts(values: object) -> dict[str, str]:
    """Return the settings that differ from their defaults, as texts by name."""
    given = ((each, getattr(values, each.name)) for each in settings_of(type(values)))
    return {each.name: each.text(value) for each, value in given if value != each.default}


def _kind(hint: object) -> tuple[type, bool, tuple[str, ...]]:
    """Return (kind, optional, choices) of a field's annotation."""
    optional = False
    if get_origin(hint) in (Union, types.UnionType):
        inner = [each for each in get_args(hint) if each is not type(None)]
        optional = len(inner) < len(get_args(hint))
        hint = inner[0] if len(inner) == 1 else str
    if get_origin(hint) is Literal:
        return str, optional, tuple(str(each) for each in get_args(hint))
    return (hint if hint in (bool, int, float, str, Path) else str), optional, ()
