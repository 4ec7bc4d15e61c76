"""Dataclasses to a JSON schema, and JSON to dataclasses, checked on the way. Knows the few types
that a report has.
"""

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import TypeVar

from ...checkpoint.config.fields import JsonValue

T = TypeVar("T")

_PLAIN: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}


def describe(kind: object) -> dict[str, JsonValue]:
    """The JSON schema of a type: a dataclass, list, dict by string, str, bool, int, float, or one
    of these or None.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is types.NoneType:
        return {"type": "null"}
    if isinstance(kind, type) and kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    if origin is list:
        return {"type": "array", "items": describe(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": describe(arguments[1])}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [describe(a) for a in arguments]}
    assert isinstance(kind, type) and is_dataclass(kind), kind
    hints = typing.get_type_hints(kind)
    doc = " ".join((kind.__doc__ or "").split())
    return {
        "type": "object",
        **({} if doc.startswith(f"{kind.__name__}(") else {"description": doc}),
        "properties": {f.name: describe(hints[f.name]) for f in fields(kind)},
        "required": [
            f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
        ],
        "additionalProperties": False,
    }


def build(kind: type[T], value: JsonValue, where: str) -> T:
    """Make a `kind` of parsed JSON. Raises ValueError naming the first place that does not fit."""
    built: T = _build(kind, value, where)  # type: ignore[assignment]
    return built


def _build(kind: object, value: JsonValue, where: str) -> object:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return (
            None
            if value is None
            else _build(next(a for a in arguments if a is not types.NoneType), value, where)
        )
    if origin is list:
        items = _expect(list, value, where)
        return [_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items)]
    if origin is dict:
        return {
            name: _build(arguments[1], item, f"{where}.{name}")
            for name, item in _expect(dict, value, where).items()
        }
    if is_dataclass(kind):
        return _build_dataclass(typing.cast(type, kind), _expect(dict, value, where), where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _expect(typing.cast(type, kind), value, where)


def _build_dataclass(kind: type, values: dict[str, JsonValue], where: str) -> object:
    hints, known = typing.get_type_hints(kind), {f.name: f for f in fields(kind)}
    if unknown := values.keys() - known.keys():
        raise ValueError(f"{where} has an unknown {min(unknown)!r}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"{where}.{name} is missing")
    made = {
        name: _build(hints[name], values[name], f"{where}.{name}")
        for name in known
        if name in values
    }
    return kind(**made)


def _expect(kind: type[T], value: JsonValue, where: str) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} is {type(value).__name__}, expected {kind.__name__}")
    return value
