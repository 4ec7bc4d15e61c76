"""Read tensors out of a PyTorch checkpoint (.bin, .pt, .ckpt) without unpickling it and without torch.

A pickle is a program; unpickling runs it. Here the opcodes are walked by `pickletools`, which only
reads, and played by a small stack machine that knows dicts, lists, tuples, numbers, strings and the
few names torch.save writes around a tensor. It imports nothing and calls nothing of what a file
names; any other name or opcode ends the reading with an error that says what was asked for.

Both of torch.save's formats: a zip (since torch 1.6) with the pickle in `data.pkl` and one entry per
storage, and the older run of four pickles followed by the storages. The tar of 2017 is refused.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import WeightsError

MOST_PICKLE_BYTES = 64 << 20  # the pickle holds names and shapes alone: 300 KB for SDXS' ControlNet
MOST_OPCODES = 4_000_000
MOST_FILE_BYTES = 32 << 30
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

# storage class -> safetensors dtype, bytes of one scalar
STORAGES = {
    "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2), "DoubleStorage": ("F64", 8),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1),
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
class _Name:
    """A name the pickle asks for; never looked up."""

    text: str


class _Refused(Exception):
    """What in a file is not a tensor."""


Value = object
_Reducer = Callable[[tuple[Value, ...]], Value]
_MARK = object()


@dataclass(frozen=True)
class TorchFile:
    """An opened checkpoint: its tensors by name, what else lay at its top level, and a reader of storages."""

    tensors: dict[str, StoredTensor]
    ignored: tuple[str, ...]
    read: Callable[[Storage], bytes]

    def scalars(self, name: str) -> np.ndarray:
        """The scalars of one tensor as raw items, little-endian, contiguous in C order."""
        tensor = self.tensors[name]
        flat = np.frombuffer(self.read(tensor.storage), dtype=f"V{tensor.storage.item_bytes}")
        size = tensor.storage.item_bytes
        view = np.lib.stride_tricks.as_strided(
            flat[tensor.offset :], tensor.shape, [stride * size for stride in tensor.strides], writeable=False
        )
        return np.ascontiguousarray(view)


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a checkpoint written by torch.save. Raises WeightsError for anything in it but tensors."""
    try:
        size = path.stat().st_size
        if size > MOST_FILE_BYTES:
            raise _Refused(f"{size:,} bytes are more than any checkpoint sdxs knows has")
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    yield _open_zip(archive, size)
            else:
                file.seek(0)
                yield _open_legacy(file, size)
    except _Refused as refused:
        raise WeightsError(
            f"{path}: not imported: {refused}; only tensors are taken from a pickle and nothing in it is ever run; "
            "get this checkpoint from its author, or another one"
        ) from None
    except (zipfile.BadZipFile, EOFError, OverflowError) as error:
        raise WeightsError(f"{path}: damaged or truncated ({error}); download it again") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from None


# The two containers


def _open_zip(archive: zipfile.ZipFile, size: int) -> TorchFile:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise _Refused("two entries of the zip have one name")
    packed = [name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise _Refused(f"entry {packed[0]!r} is compressed, which torch.save never does")
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _Refused(f"the zip has {len(pickles)} entries named data.pkl, a checkpoint has one")
    base = pickles[0].removesuffix("data.pkl")
    order = archive.read(base + "byteorder") if base + "byteorder" in entries else b"little"
    if order.strip() != b"little":
        raise _Refused(f"byte order {order[:20]!r}; only little-endian files are read")
    if entries[pickles[0]].file_size > MOST_PICKLE_BYTES:
        raise _Refused(f"its pickle has {entries[pickles[0]].file_size:,} bytes, {MOST_PICKLE_BYTES:,} are the limit")
    top = _Machine(io.BytesIO(archive.read(pickles[0]))).run()

    def read(storage: Storage) -> bytes:
        entry = entries.get(f"{base}data/{storage.key}")
        if entry is None:
            raise _Refused(f"storage {storage.key!r} is not in the zip")
        if entry.file_size != storage.count * storage.item_bytes:
            raise _Refused(f"storage {storage.key!r} has {entry.file_size:,} bytes, its tensor speaks of "
                           f"{storage.count * storage.item_bytes:,}")
        return archive.read(entry)

    return TorchFile(*_tensors(top, size), read)


def _open_legacy(file: BinaryIO, size: int) -> TorchFile:
    if file.read(1) != b"\x80":
        raise _Refused("it is neither of the formats that torch.save has written since 2018")
    file.seek(0)
    head = io.BytesIO(file.read(MOST_PICKLE_BYTES))  # a claimed length larger than what is there reads no more than that
    if _Machine(head).run() != _LEGACY_MAGIC or _Machine(head).run() != _LEGACY_PROTOCOL:
        raise _Refused("it is a pickle, but none that torch.save wrote")
    system = _Machine(head).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _Refused("byte order: only little-endian files are read")
    machine = _Machine(head)
    top = machine.run()
    keys = _Machine(head).run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
        raise _Refused("its list of storages is not a list of different names")
    places: dict[str, tuple[int, int]] = {}
    file.seek(head.tell())
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        storage = machine.storages.get(key)
        if storage is None or count != storage.count:
            raise _Refused(f"storage {key!r} has {count:,} scalars, its tensor speaks of another number")
        places[key] = file.tell(), count * storage.item_bytes
        file.seek(places[key][1], io.SEEK_CUR)

    def read(storage: Storage) -> bytes:
        if storage.key not in places:
            raise _Refused(f"storage {storage.key!r} is not in the file")
        start, length = places[storage.key]
        file.seek(start)
        found = file.read(length)
        if len(found) != length:
            raise EOFError(f"storage {storage.key!r} ends after {len(found):,} of {length:,} bytes")
        return found

    return TorchFile(*_tensors(top, size), read)


def _tensors(top: Value, size: int) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """The named tensors of the top level, or of its `state_dict`; and the names of what else is there."""
    ignored: list[str] = []
    if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
        ignored = [str(key) for key in top if key != "state_dict"]
        top = top["state_dict"]
    if not isinstance(top, dict) or not top:
        raise _Refused(f"it holds {_described(top)} where a dictionary of named tensors belongs")
    tensors: dict[str, StoredTensor] = {}
    for name, value in top.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            raise _Refused(f"{str(name)[:80]!r} is {_described(value)}, not a tensor")
        tensors[name] = value
    total = sum(tensor.bytes for tensor in tensors.values())
    if total > 2 * size:  # a view with stride 0 can claim any size; tied weights at most double
        raise _Refused(f"its tensors claim {total:,} bytes, the file has {size:,}")
    return tensors, tuple(ignored)


def _described(value: Value) -> str:
    return f"the name {value.text}" if isinstance(value, _Name) else f"a {type(value).__name__}"


# The stack machine


class _Machine:
    """Plays one pickle from a file and stops behind it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stack: list[Value] = []
        self._memo: dict[int, Value] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Value:
        """The value the pickle stands for. Raises _Refused for everything but data and tensors."""
        began = self._file.tell()
        try:
            for number, (opcode, argument, position) in enumerate(pickletools.genops(self._file)):
                if number > MOST_OPCODES or (position or 0) - began > MOST_PICKLE_BYTES:
                    raise _Refused("its pickle is longer than that of any checkpoint")
                if opcode.name == "STOP":
                    return self._pop()
                self._play(opcode.name, argument)
        except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
            raise _Refused(f"its pickle makes no sense ({error})") from None
        raise _Refused("its pickle has no end")

    def _play(self, name: str, argument: Value) -> None:
        if name in _LITERALS:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise _Refused(f"its pickle uses the opcode {name}, which no tensor needs")

    def _pop(self) -> Value:
        value = self._stack.pop()
        if value is _MARK:
            raise _Refused("its pickle makes no sense (a mark where a value belongs)")
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
            raise _Refused(f"its pickle sets items of {_described(target)}")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int):
                raise _Refused(f"it has a key that is {_described(key)}, expected a name")
            target[key] = value

    def _extend(self, values: list[Value]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise _Refused(f"its pickle appends to {_described(target)}")
        target.extend(values)

    def _global(self, module: Value, name: Value) -> None:
        text = f"{module}.{name}"
        if text not in _REDUCERS and not (module == "torch" and name in STORAGES):
            raise _Refused(f"it asks for {text[:120]!r}, which is no tensor")
        self._stack.append(_Name(text))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, target = self._pop(), self._pop()
        if not isinstance(target, _Name) or not isinstance(arguments, tuple) or target.text not in _REDUCERS:
            raise _Refused(f"its pickle calls {_described(target)}")
        self._stack.append(_REDUCERS[target.text](arguments))

    def _build(self) -> None:
        # An OrderedDict that is a state_dict carries `_metadata`, version numbers of modules: not needed.
        self._pop()
        if not isinstance(self._stack[-1], dict):
            raise _Refused(f"its pickle sets the state of {_described(self._stack[-1])}")

    def _persistent(self) -> None:
        """('storage', class, key, device, count[, view]) stands for scalars that lie outside the pickle."""
        reference = self._pop()
        match reference:
            case ("storage", _Name(text=kind), str(key), str(), int(count)) | (
                "storage", _Name(text=kind), str(key), str(), int(count), None
            ) if kind.removeprefix("torch.") in STORAGES and count >= 0 and not isinstance(count, bool):
                dtype, size = STORAGES[kind.removeprefix("torch.")]
                storage = Storage(key, dtype, size, count)
            case _:
                raise _Refused("it refers to something outside its pickle that is no storage of scalars")
        if self.storages.setdefault(key, storage) != storage:
            raise _Refused(f"storage {key!r} is described in two ways")
        self._stack.append(storage)

    def _put(self, key: int) -> None:
        self._memo[key] = self._stack[-1]


def _rebuild_tensor(arguments: tuple[Value, ...]) -> Value:
    """torch._utils._rebuild_tensor(_v2): storage, offset, size, stride and, unused here, gradient and hooks."""
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not _whole(offset) or not _all_whole(shape) or not _all_whole(strides):
        raise _Refused("a tensor is put together from something that is no storage, size and stride")
    assert isinstance(offset, int) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if len(shape) != len(strides) or len(shape) > 8:
        raise _Refused(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    if 0 not in shape:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if last >= storage.count:
            raise _Refused(f"a tensor reaches to scalar {last:,} of a storage with {storage.count:,}")
    return StoredTensor(storage, offset, shape, strides)


def _rebuild_parameter(arguments: tuple[Value, ...]) -> Value:
    if not arguments or not isinstance(arguments[0], StoredTensor):
        raise _Refused("a parameter is put together from something that is no tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[Value, ...]) -> Value:
    if arguments:
        raise _Refused("an OrderedDict is made from arguments, as torch.save never does")
    return {}


def _size(arguments: tuple[Value, ...]) -> Value:
    if len(arguments) != 1 or not _all_whole(arguments[0]):
        raise _Refused("a torch.Size is made from something that is no list of sizes")
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
_LITERALS = frozenset({
    "BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING",
})
_CONSTANTS: dict[str, Callable[[], Value]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "MARK": lambda: _MARK,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}
# Only what torch.save writes, at pickle protocols 2 to 5. INST, OBJ, NEWOBJ, EXT and the like are not here.
_ACTIONS: dict[str, Callable[[_Machine, Value], None]] = {
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
