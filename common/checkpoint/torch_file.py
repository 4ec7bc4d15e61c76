"""Read the tensors of a PyTorch checkpoint (.bin, .pt, .ckpt) without torch and without its code.

torch.save has two formats. Since torch 1.6 it writes a zip with the pickle in `data.pkl` and one
entry per storage. The older format is four pickles followed by the storages. The tar format of 2017
is refused.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import WeightsError, in_a_line
from .torch_pickle import (
    MOST_PICKLE_BYTES,
    Refused,
    Storage,
    StoredTensor,
    described,
    read_pickle,
)

UNREADABLE = (OverflowError, RuntimeError, struct.error)
MOST_FILE_BYTES = 32 << 30
METADATA = "__metadata__"  # what a safetensors header keeps for itself
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(frozen=True)
class TorchFile:
    """Hold an open checkpoint.

    tensors: by name. ignored: names of the other entries at the top level. read: reads a storage.
    """

    tensors: dict[str, StoredTensor]
    ignored: tuple[str, ...]
    read: Callable[[Storage], bytes]

    def by_storage(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every tensor: its name and its bytes in order, little-endian, uint8.

        Each storage is read once, and one is held at a time: tensors share them.
        """
        sharing: dict[Storage, list[str]] = {}
        for name, tensor in self.tensors.items():
            if tensor.bytes:
                sharing.setdefault(tensor.storage, []).append(name)
        for storage, names in sharing.items():
            flat = np.frombuffer(self.read(storage), dtype=f"V{storage.item_bytes}")
            for name in names:
                yield name, _bytes(flat, self.tensors[name])


def _bytes(flat: np.ndarray, tensor: StoredTensor) -> np.ndarray:
    """Return the bytes of a view of a storage; a copy only if they do not lie in order."""
    size = tensor.storage.item_bytes
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :],
        tensor.shape,
        [stride * size for stride in tensor.strides],
        writeable=False,
    )
    return np.ascontiguousarray(view).reshape(-1).view(np.uint8)


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a checkpoint written by torch.save. Raises WeightsError unless it holds only tensors."""
    try:
        size = path.stat().st_size
        if size > MOST_FILE_BYTES:
            raise Refused(f"{size:,} bytes are more than any known checkpoint has")
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    yield _open_zip(archive, size)
            else:
                file.seek(0)
                yield _open_legacy(file, size)
    except Refused as refused:
        raise WeightsError(
            f"{path}: not imported: {refused}; sdxs reads only tensors from a pickle and runs none "
            "of its code; get this checkpoint from its author, or another one"
        ) from None
    # zipfile raises RuntimeError for what it cannot open: encrypted entries, other versions
    except (zipfile.BadZipFile, EOFError, ValueError, *UNREADABLE) as error:
        raise WeightsError(
            f"{path}: damaged or truncated ({in_a_line(error)}); download it again"
        ) from None
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its "
            "permissions"
        ) from None


# The two container formats


def _open_zip(archive: zipfile.ZipFile, size: int) -> TorchFile:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise Refused("two entries of the zip have one name")
    packed = [name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise Refused(f"entry {packed[0]!r} is compressed, which torch.save never does")
    for name, entry in entries.items():  # a read takes what it claims before it looks
        if max(entry.file_size, entry.compress_size) > size:
            raise Refused(
                f"entry {name[:80]!r} claims {entry.file_size:,} bytes, the file has {size:,}"
            )
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused(f"the zip has {len(pickles)} entries named data.pkl, a checkpoint has one")
    base = pickles[0].removesuffix("data.pkl")
    order = archive.read(base + "byteorder") if base + "byteorder" in entries else b"little"
    if order.strip() != b"little":
        raise Refused(f"byte order {order[:20]!r}; only little-endian files are read")
    if entries[pickles[0]].file_size > MOST_PICKLE_BYTES:
        raise Refused(
            f"its pickle has {entries[pickles[0]].file_size:,} bytes, {MOST_PICKLE_BYTES:,} are "
            "the limit"
        )
    top, _ = read_pickle(io.BytesIO(archive.read(pickles[0])))

    def read(storage: Storage) -> bytes:
        entry = entries.get(f"{base}data/{storage.key}")
        if entry is None:
            raise Refused(f"storage {storage.key!r} is not in the zip")
        if entry.file_size != storage.count * storage.item_bytes:
            raise Refused(
                f"storage {storage.key!r} has {entry.file_size:,} bytes, its tensor speaks of "
                f"{storage.count * storage.item_bytes:,}"
            )
        return archive.read(entry)

    return TorchFile(*_tensors(top, size), read)


def _open_legacy(file: BinaryIO, size: int) -> TorchFile:
    if file.read(1) != b"\x80":
        raise Refused("it is neither of the formats that torch.save has written since 2018")
    file.seek(0)
    head = io.BytesIO(file.read(min(size, MOST_PICKLE_BYTES)))  # `read` takes memory first
    if any(read_pickle(head)[0] != expected for expected in (_LEGACY_MAGIC, _LEGACY_PROTOCOL)):
        raise Refused("it is a pickle, but none that torch.save wrote")
    system, _ = read_pickle(head)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("byte order: only little-endian files are read")
    top, storages = read_pickle(head)
    keys, _ = read_pickle(head)
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or len(set(keys)) != len(keys)
    ):
        raise Refused("its list of storages is not a list of different names")
    places: dict[str, tuple[int, int]] = {}
    file.seek(head.tell())
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        storage = storages.get(key)
        if storage is None or count != storage.count:
            raise Refused(
                f"storage {key!r} has {count:,} scalars, its tensor speaks of another number"
            )
        places[key] = file.tell(), count * storage.item_bytes
        file.seek(places[key][1], io.SEEK_CUR)

    def read(storage: Storage) -> bytes:
        if storage.key not in places:
            raise Refused(f"storage {storage.key!r} is not in the file")
        start, length = places[storage.key]
        file.seek(start)
        found = file.read(min(length, size))  # a read takes what is claimed before it looks
        if len(found) != length:
            raise EOFError(f"storage {storage.key!r} ends after {len(found):,} of {length:,} bytes")
        return found

    return TorchFile(*_tensors(top, size), read)


def _tensors(top: object, size: int) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
    """Return the tensors of the top level or its `state_dict`, and the names of other entries."""
    ignored: list[str] = []
    if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
        ignored = [str(key) for key in top if key != "state_dict"]
        top = top["state_dict"]
    if not isinstance(top, dict) or not top:
        raise Refused(f"it holds {described(top)} where a dictionary of named tensors belongs")
    tensors: dict[str, StoredTensor] = {}
    for name, value in top.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            raise Refused(f"{str(name)[:80]!r} is {described(value)}, not a tensor")
        if name == METADATA or _is_half_a_character(name):
            raise Refused(f"{name[:80]!r} is no name that safetensors can hold")
        tensors[name] = value
    total = sum(tensor.bytes for tensor in tensors.values())
    # a view with stride 0 can claim any size; tied weights at most double it
    if total > 2 * size:
        raise Refused(f"its tensors claim {total:,} bytes, the file has {size:,}")
    return tensors, tuple(ignored)


def _is_half_a_character(name: str) -> bool:
    """Tell whether a name holds lone surrogates, which are no UTF-8."""
    return any("\ud800" <= character <= "\udfff" for character in name)
