"""Play the pickle of a PyTorch checkpoint without unpickling it and without torch.

A pickle is a program; unpickling runs it. Here the opcodes are walked by `pickletools`, which only
reads, and played by a small stack machine that knows dicts, lists, tuples, numbers, strings and the
few names torch.save writes around a tensor. It imports nothing and calls nothing of what a file
names; any other name or opcode ends the reading with a `Refused` that says what was asked for.
"""

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import SdxsError

MOST_PICKLE_BYTES = 64 << 20  # the pickle holds names and shapes alone: 300 KB for SDXS' ControlNet
MOST_OPCODES = 4_000_000

# storage class -> safetensors dtype, bytes of one scalar
STORAGES = {
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "DoubleStorage": ("F64", 8),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


@dataclass(frozen=True, slots=True)
class Storage:
    """Where scalars lie: an entry of the zip, or a block of the older format."""

    key: str
    dtype: str
    item_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage: offset and strides in scalars, as torch counts them."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def bytes(self) -> int:
        size = self.storage.item_bytes
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True, slots=True)
class Name:
    """A name the pickle asks for; never looked up."""

    text: str


class Refused(SdxsError):
    """What in a file is not a tensor."""


Value = object
_Reducer = Callable[[tuple[Value, ...]], Value]
_MARK = object()


def described(value: Value) -> str:
    return f"the name {value.text}" if isinstance(value, Name) else f"a {type(value).__name__}"


class Machine:
    """Plays one pickle from a file and stops behind it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stack: list[Value] = []
        self._memo: dict[int, Value] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Value:
        """The value the pickle stands for. Raises Refused for everything but data and tensors."""
        began = self._file.tell()
        try:
            for number, (opcode, argument, position) in enumerate(pickletools.genops(self._file)):
                if number > MOST_OPCODES or (position or 0) - began > MOST_PICKLE_BYTES:
                    raise Refused("its pickle is longer than that of any checkpoint")
                if opcode.name == "STOP":
                    return self._pop()
                self._play(opcode.name, argument)
        except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
            raise Refused(f"its pickle makes no sense ({error})") from None
        raise Refused("its pickle has no end")

    def _play(self, name: str, argument: Value) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise Refused(f"its pickle uses the opcode {name}, which no tensor needs")

    def _pop(self) -> Value:
        value = self._stack.pop()
        if value is _MARK:
            raise Refused("its pickle makes no sense (a mark where a value belongs)")
        return value

    def _marked(self) -> list[Value]:
        """Everything above the last mark, which goes too."""
        items: list[Value] = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(items[::-1]))

    def _set_items(self, pairs: list[Value]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise Refused(f"its pickle sets items of {described(target)}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int):
                raise Refused(f"it has a key that is {described(key)}, expected a name")
            target[key] = value

    def _extend(self, values: list[Value]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise Refused(f"its pickle appends to {described(target)}")
        target.extend(values)

    def _global(self, module: Value, name: Value) -> None:
        text = f"{module}.{name}"
        if text not in _REDUCERS and not (module == "torch" and name in STORAGES):
            raise Refused(f"it asks for {text[:120]!r}, which is no tensor")
        self._stack.append(Name(text))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, target = self._pop(), self._pop()
        if (
            not isinstance(target, Name)
            or not isinstance(arguments, tuple)
            or target.text not in _REDUCERS
        ):
            raise Refused(f"its pickle calls {described(target)}")
        self._stack.append(_REDUCERS[target.text](arguments))

    def _build(self) -> None:
        # An OrderedDict that is a state_dict carries `_metadata`, version numbers of modules: not
        # needed.
        self._pop()
        if not isinstance(self._stack[-1], dict):
            raise Refused(f"its pickle sets the state of {described(self._stack[-1])}")

    def _persistent(self) -> None:
        """('storage', class, key, device, count[, view]) stands for scalars that lie outside the
        pickle.
        """
        reference = self._pop()
        match reference:
            case ("storage", Name(text=kind), str(key), str(), int(count)) | (
                "storage",
                Name(text=kind),
                str(key),
                str(),
                int(count),
                None,
            ) if (
                kind.removeprefix("torch.") in STORAGES
                and count >= 0
                and not isinstance(count, bool)
            ):
                dtype, size = STORAGES[kind.removeprefix("torch.")]
                storage = Storage(key, dtype, size, count)
            case _:
                raise Refused(
                    "it refers to something outside its pickle that is no storage of scalars"
                )
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"storage {key!r} is described in two ways")
        self._stack.append(storage)

    def _put(self, key: int) -> None:
        self._memo[key] = self._stack[-1]


def _rebuild_tensor(arguments: tuple[Value, ...]) -> Value:
    """torch._utils._rebuild_tensor(_v2): storage, offset, size, stride and, unused here, gradient
    and hooks.
    """
    storage, offset, shape, strides = arguments[:4]
    if (
        not isinstance(storage, Storage)
        or not _whole(offset)
        or not _all_whole(shape)
        or not _all_whole(strides)
    ):
        raise Refused("a tensor is put together from something that is no storage, size and stride")
    assert isinstance(offset, int) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if len(shape) != len(strides) or len(shape) > 8:
        raise Refused(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    if 0 not in shape:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if last >= storage.count:
            raise Refused(
                f"a tensor reaches to scalar {last:,} of a storage with {storage.count:,}"
            )
    return StoredTensor(storage, offset, shape, strides)


def _rebuild_parameter(arguments: tuple[Value, ...]) -> Value:
    if not arguments or not isinstance(arguments[0], StoredTensor):
        raise Refused("a parameter is put together from something that is no tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[Value, ...]) -> Value:
    if arguments:
        raise Refused("an OrderedDict is made from arguments, as torch.save never does")
    return {}


def _size(arguments: tuple[Value, ...]) -> Value:
    if len(arguments) != 1 or not _all_whole(arguments[0]):
        raise Refused("a torch.Size is made from something that is no list of sizes")
    return arguments[0]


def _whole(value: Value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _all_whole(value: Value) -> bool:
    return isinstance(value, tuple) and all(_whole(v) for v in value)


_REDUCERS: dict[str, _Reducer] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
}
_LITERALS = frozenset(
    {
        "BININT",
        "BININT1",
        "BININT2",
        "INT",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
    }
)
_CONSTANTS: dict[str, Callable[[], Value]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
# Only what torch.save writes, at pickle protocols 2 to 5. INST, OBJ, NEWOBJ, EXT and the like are
# not here.
_ACTIONS: dict[str, Callable[[Machine, Value], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "POP": lambda m, _: (m._stack.pop(), None)[1],
    "TUPLE": lambda m, _: m._stack.append(tuple(m._marked())),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "SETITEM": lambda m, _: m._set_items([m._pop(), m._pop()][::-1]),
    "SETITEMS": lambda m, _: m._set_items(m._marked()),
    "APPEND": lambda m, _: m._extend([m._pop()]),
    "APPENDS": lambda m, _: m._extend(m._marked()),
    "GLOBAL": lambda m, argument: m._global(*str(argument).split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m._stack_global(),
    "REDUCE": lambda m, _: m._reduce(),
    "BUILD": lambda m, _: m._build(),
    "BINPERSID": lambda m, _: m._persistent(),
    "PUT": lambda m, argument: m._put(int(str(argument))),
    "BINPUT": lambda m, argument: m._put(int(str(argument))),
    "LONG_BINPUT": lambda m, argument: m._put(int(str(argument))),
    "MEMOIZE": lambda m, _: m._put(len(m._memo)),
    "GET": lambda m, argument: m._stack.append(m._memo[int(str(argument))]),
    "BINGET": lambda m, argument: m._stack.append(m._memo[int(str(argument))]),
    "LONG_BINGET": lambda m, argument: m._stack.append(m._memo[int(str(argument))]),
}
