"""Every call into private parts of coreai-core, each with a test of its own.

The package calls `coreai.authoring` and `coreai.runtime` its supported surface, and `_compiler`
"unversioned". Written against 1.0.0b3, the only version that is accepted.
"""

import ctypes
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import coreai.authoring as authoring
import numpy as np
from coreai._compiler.dialects.coreai.constant import ConstantOp, create_elements_attr
from coreai._compiler.ir import (
    ArrayAttr,
    Attribute,
    DictAttr,
    InsertionPoint,
    Location,
    StringAttr,
)
from coreai.authoring import TensorType, Value
from coreai.runtime import NDArray

Body: TypeAlias = Callable[..., Any]


def composite_declaration(
    name: str, inputs: Sequence[str], attributes: Mapping[str, object]
) -> Attribute:
    """Declare a graph as an operation that a compiler may know by name."""
    names = ", ".join(f'"{each}"' for each in inputs)
    values = ", ".join(f"{key} = {_literal(value)}" for key, value in attributes.items())
    return Attribute.parse(
        f'#coreai.composite_declaration<"{name}" = {{input_names = [{names}], op_attrs = {{{values}'
        ', version = 1 : si64}, output_names = ["output"]}>'
    )


def _literal(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value} : si64"
        case float():
            return f"{value:.9e} : f32"
        case list():
            return f"[{', '.join(map(_literal, value))}]"
    raise TypeError(f"an attribute of a composite cannot be {value!r}")


@contextmanager
def at_begin_of_module() -> Iterator[None]:
    """Insert at the begin of the module, from within the body of a graph."""
    owner = InsertionPoint.current.block.owner
    while owner.name != "builtin.module":
        owner = owner.parent
    with InsertionPoint.at_block_begin(owner.regions[0].blocks[0]):
        yield


def graph(
    name: str,
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
    body: Body,
    **how: object,
) -> Any:
    """Add a graph with named inputs and outputs to the current module.

    body: takes the inputs in order, returns one Value, or a tuple in the order of `outputs`. The
    decorator reads names and types from a signature, which is made up here.
    """

    def function(*values: Value) -> object:
        return body(*values)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(each, kind) for each in inputs]
    )
    made = [Annotated[Value, each.with_name(named)] for named, each in outputs.items()]
    function.__annotations__ = {named: Annotated[Value, each] for named, each in inputs.items()}
    function.__annotations__["return"] = made[0] if len(made) == 1 else tuple[tuple(made)]  # type: ignore[misc]
    return authoring.graph(function, provided_name=name, **how)


def make_state(made: Any, name: str) -> None:
    """Turn the input and the output `name` of a graph into one state, inside the module."""
    operation, attributes = made._callable, []
    for each in operation.arg_attrs:
        found = {named.name: named.attr for named in each}
        if found["coreai.name"].value == name:
            found["MutableBuffers.buffer_mutation"] = StringAttr.get(name)
        attributes.append(DictAttr.get(found))
    operation.arg_attrs = ArrayAttr.get(attributes)


def packed_constant(codes: np.ndarray, bits: int) -> Value:
    """Return uint8 codes of 2 or 4 bits as a constant of that type.

    `authoring.constant` stores one byte for each, which then ends the compiler's process.
    """
    per_byte = 8 // bits
    flat = codes.reshape(-1)
    padded = np.concatenate([flat, np.zeros(-len(flat) % per_byte, np.uint8)]).reshape(-1, per_byte)
    shifts = bits * np.arange(per_byte, dtype=np.uint8)  # lowest bits first
    packed = np.bitwise_or.reduce(padded << shifts, axis=1).astype(np.uint8)
    kind = {2: authoring.uint2, 4: authoring.uint4}[bits]
    stored = TensorType(codes.shape, kind)._to_mlir_type()
    made = ConstantOp(value=create_elements_attr(Location.unknown(), stored, packed))
    return Value._from_mlir(made.result)


def compile_for_linux(asset: Path, folder: Path) -> None:
    """Write what Apple's CPU runtime in the package runs; `AIModel.load` opens no asset there."""
    authoring.AIModelAsset.load(asset)._write_odix(folder)


def view(array: NDArray) -> np.ndarray:
    """Return an NDArray as NumPy, read-only and without a copy; it outlives the NDArray.

    Where rows are padded, it is a copy.
    """
    packed = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(len(array.shape)))
    if tuple(array.strides) != packed:
        padded: np.ndarray = array.numpy()
        return padded
    flat = np.frombuffer(memoryview(array._tensor), np.dtype(array.dtype))
    return flat.reshape(tuple(array.shape))


def writable(array: NDArray) -> np.ndarray:
    """Return the memory of an NDArray as bytes to write into; they keep the NDArray alive."""
    seen = np.frombuffer(memoryview(array._tensor), np.uint8)
    address = seen.ctypes.data
    memory = (ctypes.c_uint8 * seen.nbytes).from_address(address)
    memory.owner = array  # type: ignore[attr-defined]
    return np.frombuffer(memoryview(memory), np.uint8)
