"""Open a saved ML Program without Core ML: the .mlpackage folder, its protobuf, its weight file.

Follows the published Model.proto and MIL.proto. coremltools' blob reader reads the weights, anew at
each use. Flexible shapes, list and dictionary values, and types that Core ML does not compute with
(64-bit, bfloat16, float8) are errors.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from coremltools.libmilstoragepython import _BlobStorageReader
from coremltools.proto import FeatureTypes_pb2 as FeatureTypes_pb2
from coremltools.proto import MIL_pb2 as MIL_pb2
from coremltools.proto import Model_pb2 as Model_pb2

from ...common.errors import BackendError

Value = np.ndarray | str | list["Value"]

# NumPy type of each MIL type; float16 widens, and the interpreter may round it.
STORAGE: dict[str, type[np.generic]] = {
    "bool": np.bool_,
    "float16": np.float32,
    "float32": np.float32,
    "int4": np.int8,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "uint1": np.uint8,
    "uint2": np.uint8,
    "uint3": np.uint8,
    "uint4": np.uint8,
    "uint6": np.uint8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
}
BITS = {"bool": 8, "float16": 16, "float32": 32} | {
    name: int(name.removeprefix("u").removeprefix("int")) for name in STORAGE if "int" in name
}


@dataclass(frozen=True, slots=True)
class TensorType:
    """The dtype and shape of a tensor.

    dtype: MIL's name, such as 'float16', 'uint4' or 'string'. shape: fixed sizes; () for a scalar.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class Package:
    """The folder of one saved model.

    Raises BackendError if it is missing, damaged or no ML Program.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = _model_file(path)
        self.spec = Model_pb2.Model()
        try:
            self.spec.ParseFromString(file.read_bytes())
        except Exception as error:  # protobuf's DecodeError has no stable public home
            raise self.damaged(f"{file.name} is not a Core ML model ({error})") from error
        if self.spec.WhichOneof("Type") != "mlProgram":
            raise self.damaged(
                f"{file.name} holds {self.spec.WhichOneof('Type') or 'no model'}, expected an ML "
                "Program"
            )
        self._folder = file.parent
        self._readers: dict[str, _BlobStorageReader] = {}

    def damaged(self, what: str) -> BackendError:
        return BackendError(f"{self.path}: {what}; delete it and run the conversion again")

    def type_of(self, value: MIL_pb2.ValueType) -> TensorType:
        """Return dtype and shape of a tensor, or of the tensor inside a state."""
        tensor = (
            value.stateType.wrappedType.tensorType
            if value.WhichOneof("type") == "stateType"
            else value.tensorType
        )
        if any(size.WhichOneof("dimension") != "constant" for size in tensor.dimensions):
            raise BackendError(
                f"{self.path}: the program has a flexible shape; convert it with inputs of fixed "
                "size"
            )
        dtype = MIL_pb2.DataType.Name(tensor.dataType).lower()
        return TensorType(dtype, tuple(size.constant.size for size in tensor.dimensions))

    def check_blob(self, value: MIL_pb2.Value) -> None:
        """Raise BackendError at load time for a weight that exceeds its file."""
        file, offset = self._blob(value)
        kind = self.type_of(value.type)
        # 64 bytes: the header of the blob
        needed = offset + 64 + (math.prod(kind.shape) * BITS.get(kind.dtype, 0) + 7) // 8
        size = file.stat().st_size if file.is_file() else 0
        if size < needed:
            raise self.damaged(
                f"{file.name} has {size} bytes, expected at least {needed}: missing or truncated"
            )

    def read(self, value: MIL_pb2.Value) -> Value:
        """Return a constant: numbers in their STORAGE type, or strings."""
        if value.WhichOneof("value") == "blobFileValue":
            return self._read_blob(value)
        if value.immediateValue.WhichOneof("value") == "list":
            return [self.read(item) for item in value.immediateValue.list.values]
        return self._read_immediate(value)

    def _blob(self, value: MIL_pb2.Value) -> tuple[Path, int]:
        prefix, _, name = value.blobFileValue.fileName.partition("/")
        if prefix != "@model_path" or ".." in Path(name).parts:
            raise self.damaged(
                f"weights are in {value.blobFileValue.fileName!r}, expected a file beside the model"
            )
        return self._folder / name, value.blobFileValue.offset

    def _read_blob(self, value: MIL_pb2.Value) -> np.ndarray:
        file, offset = self._blob(value)
        kind = self.type_of(value.type)
        reader_name = {"float16": "fp16", "float32": "float"}.get(kind.dtype, kind.dtype)
        try:
            if file.name not in self._readers:
                self._readers[file.name] = _BlobStorageReader(str(file))
            flat = np.asarray(getattr(self._readers[file.name], f"read_{reader_name}_data")(offset))
        except (RuntimeError, ValueError, AttributeError) as error:
            raise self.damaged(f"{file.name} at byte {offset} is not {kind} ({error})") from error
        if flat.size != math.prod(kind.shape):
            raise self.damaged(
                f"{file.name} at byte {offset} holds {flat.size} numbers, expected {kind}"
            )
        if kind.dtype == "float16":
            flat = flat.view(np.float16)  # the reader returns the bits as uint16
        return flat.reshape(kind.shape).astype(STORAGE[kind.dtype], copy=False)

    def _read_immediate(self, value: MIL_pb2.Value) -> np.ndarray | str:
        kind = self.type_of(value.type)
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field is None:
            raise self.damaged(f"a constant of type {kind} has no value")
        numbers = getattr(tensor, field).values
        if kind.dtype == "string":
            if len(numbers) != 1:
                raise self.damaged(f"a string constant has {len(numbers)} values, expected 1")
            return str(numbers[0])
        flat = _from_bytes(numbers, kind) if field == "bytes" else np.asarray(numbers)
        if kind.dtype not in STORAGE or flat.size != math.prod(kind.shape):
            raise self.damaged(f"a constant of type {kind} holds {flat.size} numbers")
        return flat.reshape(kind.shape).astype(STORAGE[kind.dtype])


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpack `count` unsigned numbers of `bits` bits from bytes, lowest bit first."""
    flat = np.unpackbits(packed, bitorder="little")[: count * bits].reshape(count, bits)
    return np.packbits(flat, axis=1, bitorder="little")[:, 0]


def _from_bytes(raw: bytes, kind: TensorType) -> np.ndarray:
    if kind.dtype == "float16":
        return np.frombuffer(raw, np.float16)
    bits = BITS.get(kind.dtype, 0)
    if bits not in (1, 2, 3, 4, 6):
        return np.frombuffer(raw, STORAGE.get(kind.dtype, np.uint8))
    numbers = unpack_bits(np.frombuffer(raw, np.uint8), bits, math.prod(kind.shape))
    if kind.dtype == "int4":
        numbers = (numbers ^ 8).astype(np.int8) - 8  # two's complement in four bits
    return numbers


def _model_file(path: Path) -> Path:
    manifest = path / "Manifest.json"
    try:
        entries = json.loads(manifest.read_bytes())
        file = (
            path / "Data" / str(entries["itemInfoEntries"][entries["rootModelIdentifier"]]["path"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(
            f"{path}: Manifest.json is missing or damaged, expected a saved .mlpackage folder; run "
            "the conversion again"
        ) from error
    if not file.is_file():
        raise BackendError(
            f"{path}: the model file {file.name} is missing; delete the folder and run the "
            "conversion again"
        )
    return file
