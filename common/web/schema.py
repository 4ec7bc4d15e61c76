"""The JSON schema of the API: parameters from the table, messages from their dataclasses."""

from functools import cache

from ..live.parameters import TABLE
from .messages import (
    PROTOCOL,
    Message,
    NameBody,
    PictureHead,
    PromptBody,
    ValuesBody,
    reader,
    value_schema,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def schema() -> dict[str, object]:
    """Describe every message and body, in both directions, each under its name in `$defs`."""
    defs: dict[str, object] = {
        "values": {
            "type": "object",
            "properties": {name: value_schema(row) for name, row in TABLE.items()},
            "required": list(TABLE),
            "additionalProperties": False,
        }
    }
    for name, kind in _SENT.items():
        made = reader(kind).json_schema(ref_template="#/$defs/{model}")
        defs |= made.pop("$defs", {})
        defs[name] = made
    defs |= _SAID
    return {
        "$schema": DIALECT,
        "title": f"sdxs, protocol {PROTOCOL}",
        "description": "sent: by a client at the socket. said: by the server there. The others are "
        "bodies of the HTTP part, and the heads of binary messages.",
        "$defs": defs,
        "anyOf": [{"$ref": "#/$defs/sent"}, {"$ref": "#/$defs/said"}],
    }


_SENT = {
    "sent": Message,
    "post parameters": ValuesBody,
    "post prompt": PromptBody,
    "post event or cue": NameBody,
    "picture head": PictureHead,
}
_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_TEXTS = {"type": "array", "items": _TEXT}


def _object(required: dict[str, object], **optional: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def _said(kind: str, required: dict[str, object], **optional: object) -> dict[str, object]:
    return _object({"type": {"const": kind}} | required, **optional)


_PARAMETER = _object(
    {
        "name": _TEXT,
        "kind": {"enum": ["switch", "integer", "number", "choice", "text"]},
        "help": _TEXT,
        "unit": _TEXT,
        "minimum": {"type": ["number", "null"]},
        "maximum": {"type": ["number", "null"]},
        "choices": _TEXTS,
        "default": True,
        "optional": {"type": "boolean"},
        "glides": {"type": "boolean"},
        "unusable": _TEXT,
    },
    value=True,
)
_SAID: dict[str, object] = {
    "said": {
        "oneOf": [
            {"$ref": f"#/$defs/said {kind}"}
            for kind in ("hello", "values", "figures", "people", "answer", "taken", "over")
        ]
    },
    "said hello": _said(
        "hello",
        {
            "protocol": _WHOLE,
            "you": _WHOLE,
            "model": _TEXT,
            "width": _WHOLE,
            "height": _WHOLE,
            "aspect": _NUMBER,
            "layers": _TEXTS,
            "camera": {"type": "boolean"},
            "parameters": {"type": "array", "items": _PARAMETER},
            "events": _TEXTS,
            "keys": {
                "type": "array",
                "items": _object({"label": _TEXT, "help": _TEXT, "changes": {"type": "object"}}),
            },
            "gallery": _TEXTS,
        },
    ),
    "said values": _said(
        "values",
        {
            "values": {"$ref": "#/$defs/values"},
            "stops": _TEXTS,
            "below": _TEXTS,
            "origin": _TEXT,
        },
    ),
    "said figures": _said(
        "figures",
        {"loading": {"type": "boolean"}, "memory_bytes": _WHOLE},
        fps=_NUMBER,
        latency_ms=_NUMBER,
        captured=_WHOLE,
        shown=_WHOLE,
        dropped=_WHOLE,
        prompt=_TEXT,
        coming=_TEXT,
        prompts=_TEXTS,
        index=_WHOLE,
        recording={"type": "boolean"},
        note=_TEXT,
    ),
    "said people": _said(
        "people",
        {
            "steers": {"type": ["integer", "null"]},
            "asking": {"type": "array", "items": _WHOLE},
            "here": {"type": "array", "items": _WHOLE},
        },
    ),
    "said answer": _said("answer", {"id": {"type": ["integer", "null"]}, "error": _TEXT}),
    "said taken": _said("taken", {"picture": _WHOLE, "error": _TEXT}),
    "said over": _said("over", {}),
    "frame head": _object(
        {
            "frame": _WHOLE,
            "age_ms": _NUMBER,
            "prompt": _TEXT,
            "layers": {"type": "object", "additionalProperties": _WHOLE},
            "sender": {"anyOf": [{"type": "null"}, _object({"client": _WHOLE, "picture": _WHOLE})]},
        }
    ),
}
