"""Read the pickle of a PyTorch checkpoint: data and tensors only, without torch.

A pickle is a program. `Reader` is Python's own unpickler without the parts that can run code.
Opcodes, names and dictionary keys have allow-lists, and no name is imported. Any other item raises
`Refused`, which names it.

The base class is the unpickler in Python, `pickle._Unpickler`. The public one in C has no hook for
dictionary items: a key of 40 nested tuples hashes for years, a deeper one overflows the stack. It
also allocates the memo for any index of a LONG_BINPUT.
"""

import io
import pickle
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import SdxsError

MOST_PICKLE_BYTES = 64 << 20  # a pickle holds names and shapes: 300 KB for SDXS' ControlNet
MOST_OPCODES = 4_000_000

# storage class -> safetensors dtype, bytes of one scalar
STORAGES = {
    "torch.FloatStorage": ("F32", 4),
    "torch.HalfStorage": ("F16", 2),
    "torch.BFloat16Storage": ("BF16", 2),
    "torch.DoubleStorage": ("F64", 8),
    "torch.LongStorage": ("I64", 8),
    "torch.IntStorage": ("I32", 4),
    "torch.ShortStorage": ("I16", 2),
    "torch.CharStorage": ("I8", 1),
    "torch.ByteStorage": ("U8", 1),
    "torch.BoolStorage": ("BOOL", 1),
}
_CALLED = (
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
)
# The opcodes of torch.save at protocols 2 to 5, without INST, OBJ, NEWOBJ, EXT1 and the like.
_ALLOWED = (
    "PROTO FRAME STOP MARK POP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS "
    "EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID"
)
_CODES = {op.name: ord(op.code) for op in pickletools.opcodes if op.name in _ALLOWED.split()}


@dataclass(frozen=True, slots=True)
class Storage:
    """Locate scalars: an entry of the zip, or a block of the older format."""

    key: str
    dtype: str
    item_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Describe a view of a storage: offset and strides in scalars, as in torch."""

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
    """Hold a global name of the pickle, which is never imported."""

    text: str


class Refused(SdxsError):
    """A file holds an item that is not a tensor; the message names it."""


def described(value: object) -> str:
    return f"the name {value.text}" if isinstance(value, Name) else f"a {type(value).__name__}"


def read_pickle(file: BinaryIO) -> tuple[object, dict[str, Storage]]:
    """Read one pickle; return its value and its storages by key.

    Leaves `file` at the end of the pickle. Raises Refused unless it holds only data and tensors.
    """
    began = file.tell()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of escapes in a text
            for number, (opcode, _, _) in enumerate(pickletools.genops(file)):
                if number >= MOST_OPCODES:
                    raise Refused("its pickle is longer than that of any checkpoint")
                if opcode.name not in _CODES:
                    raise Refused(
                        f"its pickle uses the opcode {opcode.name}, which no tensor needs"
                    )
            length = file.tell() - began
            file.seek(began)
            reader = Reader(io.BytesIO(file.read(length)))
            return reader.load(), reader.storages
    except (
        *(LookupError, TypeError, ValueError, AttributeError, EOFError),
        *(AssertionError, pickle.UnpicklingError),
    ) as error:
        raise Refused(f"its pickle makes no sense ({error})") from None


class Reader(pickle._Unpickler):
    """Python's unpickler, restricted: it imports nothing, calls nothing and fills only dicts."""

    stack: list[object]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[object]]

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Name:
        text = f"{module}.{name}"
        if text not in STORAGES and text not in _CALLED:
            raise Refused(f"it asks for {text[:120]!r}, which is no tensor")
        return Name(text)

    def persistent_load(self, reference: object) -> Storage:
        """Return the storage of ('storage', class, key, device, count[, view])."""
        match reference:
            case ("storage", Name(text=kind), str(key), str(), int(count), *view) if (
                kind in STORAGES and _whole(count) and view in ([], [None])
            ):
                storage = Storage(key, *STORAGES[kind], count)
            case _:
                raise Refused(
                    "it refers to something outside its pickle that is no storage of scalars"
                )
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"storage {key!r} is described in two ways")
        return storage

    def load_reduce(self) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        if not isinstance(target, Name) or target.text not in _CALLED:
            raise Refused(f"its pickle calls {described(target)}")
        self.append(_called(target.text, arguments))

    def load_build(self) -> None:
        # The OrderedDict of a state_dict has `_metadata`, the module versions; it is ignored.
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise Refused(f"its pickle sets the state of {described(self.stack[-1])}")

    def load_setitem(self) -> None:
        self._set_items([self.stack.pop(), self.stack.pop()][::-1])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, pairs: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused(f"its pickle sets items of {described(target)}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int) or not _printable(key):
                raise Refused(f"it has a key that is {described(key)}, expected a name")
            target[key] = value

    dispatch = {  # type: ignore[assignment]  # typeshed: functions of the base class alone
        code: pickle._Unpickler.dispatch[code] for code in _CODES.values()
    } | {
        _CODES["REDUCE"]: load_reduce,
        _CODES["BUILD"]: load_build,
        _CODES["SETITEM"]: load_setitem,
        _CODES["SETITEMS"]: load_setitems,
    }


def _called(name: str, arguments: object) -> object:
    """Return the result of the torch function `name`: a mapping, sizes or a tensor."""
    match name.rpartition(".")[2], arguments:
        case "OrderedDict", ():
            return {}
        case "Size", (tuple(sizes),) if all(map(_whole, sizes)):
            return sizes
        case "_rebuild_parameter", (StoredTensor() as tensor, *_):
            return tensor
        case (
            "_rebuild_tensor" | "_rebuild_tensor_v2",
            (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_),
        ) if all(map(_whole, (offset, *shape, *strides))):
            return _tensor(StoredTensor(storage, offset, shape, strides))
    raise Refused(f"{name} is given something that is no storage, size and stride")


def _tensor(tensor: StoredTensor) -> StoredTensor:
    shape, strides, count = tensor.shape, tensor.strides, tensor.storage.count
    if len(shape) != len(strides) or len(shape) > 8:
        raise Refused(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= count:
        raise Refused(f"a tensor reaches to scalar {last:,} of a storage with {count:,}")
    return tensor


def _printable(key: str | int) -> bool:
    """Tell whether a key can be printed; Python refuses an int of more than 4,300 digits."""
    return isinstance(key, str) or key.bit_length() <= 64


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48
