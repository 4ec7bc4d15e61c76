"""What pages and programs send: read once, strictly, and described by a JSON schema.

Names, ranges and choices of parameters come from the table.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, WithJsonSchema

from ..errors import UsageError, in_a_line
from ..io.inputs.controls import MOST_TEXT
from ..io.inputs.reading import EVENTS, read_event, read_set, read_step
from ..live.parameters import TABLE, Change, Cue
from ..settings import Setting

PROTOCOL = 1
MOST_MESSAGE = 16_384  # characters of JSON
MOST_CREDIT = 3  # frames on their way to one page
_EXACT = {"strict": True, "extra": "forbid", "allow_inf_nan": False}
_LARGEST_ID = 2**53  # that JavaScript counts to

Value = bool | int | float | str | None


ParameterName = Annotated[str, WithJsonSchema({"type": "string", "enum": list(TABLE)})]
EventName = Annotated[str, WithJsonSchema({"type": "string", "enum": list(EVENTS)})]
Id = Annotated[int, Field(ge=0, le=_LARGEST_ID)] | None


@dataclass(frozen=True, slots=True)
class SetMessage:
    """Give a parameter a value; one that glides may take `over_s` seconds."""

    __pydantic_config__ = _EXACT
    do: Literal["set"]
    name: ParameterName
    value: Value
    over_s: float = 0.0
    id: Id = None

    @property
    def change(self) -> Change:
        return read_set(self.name, self.value, self.over_s)


@dataclass(frozen=True, slots=True)
class StepMessage:
    """Move a number, turn a switch over, go round choices."""

    __pydantic_config__ = _EXACT
    do: Literal["step"]
    name: ParameterName
    delta: float
    id: Id = None

    @property
    def change(self) -> Change:
        return read_step(self.name, self.delta)


@dataclass(frozen=True, slots=True)
class EventMessage:
    """Let something happen, as a key does."""

    __pydantic_config__ = _EXACT
    do: Literal["event"]
    name: EventName
    id: Id = None

    @property
    def change(self) -> Change:
        return read_event(self.name)


@dataclass(frozen=True, slots=True)
class CueMessage:
    """Go to a place of the schedule."""

    __pydantic_config__ = _EXACT
    do: Literal["cue"]
    name: str
    id: Id = None

    @property
    def change(self) -> Change:
        return Cue(self.name)


@dataclass(frozen=True, slots=True)
class ShowMessage:
    """Ask for frames: which layers, and how many may be on their way; 0 for none."""

    __pydantic_config__ = _EXACT
    do: Literal["show"]
    layers: list[str]
    credit: int = 2


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """Say that a frame has been shown, so that another may come."""

    __pydantic_config__ = _EXACT
    do: Literal["shown"]
    frame: int


@dataclass(frozen=True, slots=True)
class SteerMessage:
    """Ask to steer; take the question back; keep steering; give it to another."""

    __pydantic_config__ = _EXACT
    do: Literal["ask", "withdraw", "keep", "give"]
    to: int = 0


ChangeMessage = SetMessage | StepMessage | EventMessage | CueMessage
Message = ChangeMessage | ShowMessage | ShownMessage | SteerMessage


@dataclass(frozen=True, slots=True)
class ValuesBody:
    """The body of POST /api/parameters."""

    __pydantic_config__ = _EXACT
    values: dict[str, Value]
    over_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PromptBody:
    """The body of POST /api/prompt."""

    __pydantic_config__ = _EXACT
    prompt: str


@dataclass(frozen=True, slots=True)
class NameBody:
    """The body of POST /api/event and POST /api/cue."""

    __pydantic_config__ = _EXACT
    name: str


@dataclass(frozen=True, slots=True)
class PictureHead:
    """The head of a camera's picture that a page sends, a binary message."""

    __pydantic_config__ = _EXACT
    picture: int


@cache
def reader(kind: Any) -> TypeAdapter[object]:
    """Return what reads one kind of message or body."""
    if kind is Message:
        return TypeAdapter(Annotated[Message, Field(discriminator="do")])
    return TypeAdapter(kind)


def read(kind: Any, text: str | bytes) -> object:
    """Read JSON as a message or a body. Raises UsageError, in a line."""
    if len(text) > MOST_MESSAGE:
        raise UsageError(f"a message of {len(text)} characters; expected {MOST_MESSAGE} at most")
    try:
        return reader(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place, said = ".".join(str(each) for each in first["loc"]), first["msg"]
        if len(first["loc"]) > 1 and first["loc"][1] in ("value", "values"):
            said = "expected a finite number, a text, true, false or null"
        raise UsageError(in_a_line(f"{place or 'the message'}: {said}")) from None


def row_as_json(row: Setting, unusable: str) -> dict[str, object]:
    """Describe a parameter as a page draws it. unusable: why it has no effect, or ''."""
    return {
        "name": row.name,
        "kind": "choice" if row.choices else _KINDS[row.kind],
        "help": row.help,
        "unit": row.unit,
        "minimum": row.minimum,
        "maximum": row.maximum,
        "choices": list(row.choices),
        "default": row.default,
        "optional": row.optional,
        "glides": row.glides,
        "unusable": unusable or (f"fixed at the start, by {row.flag}" if row.at_start else ""),
    }


_KINDS = {bool: "switch", int: "integer", float: "number", str: "text"}


def value_schema(row: Setting) -> dict[str, object]:
    """Describe the values of a parameter as JSON schema."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    kind = kinds[row.kind]
    schema: dict[str, object] = {"type": [kind, "null"] if row.optional else kind}
    schema |= {"description": row.help, "default": row.default}
    schema |= {"enum": list(row.choices)} if row.choices else {}
    schema |= {} if row.minimum is None else {"minimum": row.minimum}
    schema |= {} if row.maximum is None else {"maximum": row.maximum}
    return schema | ({"maxLength": MOST_TEXT} if row.kind is str and not row.choices else {})
