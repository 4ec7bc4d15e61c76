"""Write files as torch.save writes them, without torch: sound ones, and ones that would do harm."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

STORAGE = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "uint16": "BFloat16Storage",
}
Tensors = dict[str, np.ndarray]


class Global:
    """Pickles as a bare name, whatever its module holds."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """Pickles as a name that is called."""

    def __init__(self, target: Global, *arguments: object) -> None:
        self.target, self.arguments = target, arguments


class Built:
    """Pickles as a value whose state is set."""

    def __init__(self, target: object, state: object) -> None:
        self.target, self.state = target, state


# The pickler in Python can be taught names that do not exist.
class Writer(pickle._Pickler):
    """Writes names and calls of modules that are not installed, and storages as torch does."""

    write: Callable[[bytes], object]

    def save(self, value: object, save_persistent_id: bool = True) -> None:
        if isinstance(value, Global):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Call):
            self.save(value.target)
            self.save(value.arguments)
            self.write(b"R")
        elif isinstance(value, Built):
            self.save(value.target)
            self.save(value.state)
            self.write(b"b")
        elif isinstance(value, Stored):
            self.save(value.reference)
            self.write(b"Q")
        else:
            super().save(value, save_persistent_id)  # type: ignore[misc]  # not in typeshed


class Stored:
    """A storage, which torch refers to from outside its pickle."""

    def __init__(self, key: str, dtype: str, count: int, *view: object) -> None:
        self.reference = ("storage", Global("torch", STORAGE[dtype]), key, "cpu", count, *view)


def pickled(value: object, protocol: int = 2) -> bytes:
    """Return a value as a pickle."""
    buffer = io.BytesIO()
    Writer(buffer, protocol).dump(value)
    return buffer.getvalue()


def tensor(key: str, array: np.ndarray, *view: object, **changes: object) -> Call:
    """Return what torch pickles of a tensor that is a storage of its own.

    view: a last item of the storage's reference, in the older format. changes: offset, shape,
    strides and count, in scalars.
    """
    strides = tuple(stride // array.itemsize for stride in array.strides)
    facts = {"offset": 0, "shape": array.shape, "strides": strides, "count": array.size} | changes
    storage = Stored(key, array.dtype.name, facts["count"], *view)  # type: ignore[arg-type]
    return Call(
        Global("torch._utils", "_rebuild_tensor_v2"),
        storage,
        facts["offset"],
        facts["shape"],
        facts["strides"],
        False,
        Call(Global("collections", "OrderedDict")),
    )


def write_zip(
    path: Path,
    value: object,
    arrays: dict[str, bytes],
    protocol: int = 2,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a pickled value and its storages as a zip; return the path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(value, protocol))
        archive.writestr("archive/byteorder", "little")
        for key, content in arrays.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy(path: Path, tensors: Tensors) -> Path:
    """Write tensors as torch.save did before 1.6; return the path."""
    keys = [str(i) for i in range(len(tensors))]
    parts = [
        0x1950A86A20F9469CFC6C,
        1001,
        {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}},
        {
            name: tensor(key, array, None)
            for key, (name, array) in zip(keys, tensors.items(), strict=True)
        },
        keys,
    ]
    storages = b"".join(
        struct.pack("<q", array.size) + array.tobytes() for array in tensors.values()
    )
    path.write_bytes(b"".join(map(pickled, parts)) + storages)
    return path


def write_torch(path: Path, tensors: Tensors) -> Path:
    """Write tensors as torch.save does today, into a folder that is made; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor(str(i), array) for i, (name, array) in enumerate(tensors.items())}
    return write_zip(
        path, state, {str(i): array.tobytes() for i, array in enumerate(tensors.values())}
    )
