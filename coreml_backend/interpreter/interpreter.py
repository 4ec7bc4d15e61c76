"""Execute a saved ML Program in NumPy, to check its results without a Mac.

It mirrors the part of `coremltools.models.MLModel` that a backend needs: `predict`, `make_state`,
functions, images. `operations`, `products`, `shapes` and `weights` hold the operations.

Limits: it accumulates in float32 or better, never rounds a partial sum and fuses nothing. It knows
no compute units, and says nothing about speed, memory or the last bits of Core ML.

By default float16 results and float inputs keep float32 precision. `round_float16` rounds the
inputs and the result of every operation to the declared type, and raises at the first value that
is not finite.

Only a Mac can confirm two assumptions. Core ML clamps an image output to 0..255 and rounds half to
even; programs that round themselves do not depend on it. `cast` to integers truncates towards zero.
"""

import inspect
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ...common.errors import BackendError, PictureError, SdxsWarning
from . import operations as mil_ops
from . import products as mil_products
from . import shapes as mil_shapes
from . import weights as mil_weights
from .operations import Operations, Slot, State
from .package import STORAGE, FeatureTypes_pb2, MIL_pb2, Model_pb2, Package, TensorType, Value

ATTENTION = "scaled_dot_product_attention"
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
# binding of an attribute in the proto: the name of a value, a constant, or a list of both
Argument: TypeAlias = str | MIL_pb2.Value | list[str | MIL_pb2.Value]
Operand = Value | Slot | list["Operand"]
OPS: Operations = {**mil_ops.OPS, **mil_products.OPS, **mil_shapes.OPS, **mil_weights.OPS}
COLOURS = {
    FeatureTypes_pb2.ImageFeatureType.RGB: "RGB",
    FeatureTypes_pb2.ImageFeatureType.BGR: "BGR",
}


@dataclass(frozen=True, slots=True)
class Feature:
    """One input, output or state, as the caller passes or receives it.

    shape: of the array; (H, W, 3) for an image. dtype: the program's name of it; 'uint8' for an
    image. image: 'RGB' or 'BGR', the order inside the program; the caller always uses RGB.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One operation with its arguments by attribute."""

    kind: str
    name: str
    arguments: dict[str, Argument]
    outputs: tuple[tuple[str, TensorType], ...]

    def names(self) -> Iterator[str]:
        for argument in self.arguments.values():
            yield from (
                a
                for a in (argument if isinstance(argument, list) else [argument])
                if isinstance(a, str)
            )


class Interpreter:
    """One function of a saved ML Program.

    Raises BackendError for everything that it does not implement exactly.
    """

    def __init__(
        self, path: Path, function: str | None = None, round_float16: bool = False
    ) -> None:
        self._package = Package(path)
        self._round = round_float16
        description = self._package.spec.description
        program = self._package.spec.mlProgram
        self.function = function or description.defaultFunctionName or "main"
        if self.function not in program.functions:
            known = ", ".join(sorted(program.functions)) or "none"
            raise BackendError(f"{path}: no function {self.function!r}; choose one of: {known}")
        # a single function has its description at the top level, several have one each
        faces = {face.name: face for face in description.functions}
        face = faces.get(self.function, description)
        self._load(program.functions[self.function])
        self._inputs = {f.name: self._feature(f) for f in face.input}
        self._outputs = {f.name: self._feature(f) for f in face.output}
        self._check_description(face)

    @property
    def inputs(self) -> Mapping[str, Feature]:
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, Feature]:
        return self._outputs

    @property
    def states(self) -> Mapping[str, TensorType]:
        return self._states

    @property
    def largest_scores(self) -> Mapping[str, float]:
        """Return max |q k^T| of the attentions so far, by the operation that computes the product.

        Of scaled_dot_product_attention it is the product before its own scaling.
        """
        return self._scores

    @property
    def op_counts(self) -> Mapping[str, int]:
        """Return the number of operations by kind, constants included."""
        return self._counts

    def make_state(self) -> State:
        """Return the states of this function, zero as in Core ML."""
        return State(
            {name: np.zeros(kind.shape, STORAGE[kind.dtype]) for name, kind in self._states.items()}
        )

    def predict(
        self, data: Mapping[str, object], state: State | None = None
    ) -> dict[str, np.ndarray]:
        """Run the function once.

        data: inputs by name: arrays of the declared shape; images as uint8 (H, W, 3) RGB or PIL
        images of mode RGB. Returns outputs by name: images as uint8 (H, W, 3) RGB, floats as
        float32, integers in their own type. Raises BackendError for inputs that do not fit.
        """
        names = set(data)
        if names != set(self._inputs):
            wrong = (
                f"missing {sorted(self._inputs.keys() - names)}, unknown "
                f"{sorted(names - self._inputs.keys())}"
            )
            raise self._fail("inputs", wrong, f"pass exactly {sorted(self._inputs)}")
        if (set(state.slots) if state else set()) != set(self._states):
            raise self._fail(
                "state",
                f"given {sorted(state.slots) if state else None}, expected {sorted(self._states)}",
                "pass the result of make_state",
            )
        values: dict[str, Operand] = dict(state.slots) if state else {}
        for name, feature in self._inputs.items():
            values[name] = self._take(feature, data[name])
        with np.errstate(all="ignore"):  # each operation checks for overflow afterwards
            self._run(values)
            return {
                name: self._give(feature, self._value(name, values))
                for name, feature in self._outputs.items()
            }

    # Loading

    def _load(self, function: MIL_pb2.Function) -> None:
        if function.opset not in function.block_specializations:
            raise self._package.damaged(
                f"function {self.function!r} has no block for opset {function.opset!r}"
            )
        block = function.block_specializations[function.opset]
        types = {i.name: self._package.type_of(i.type) for i in function.inputs}
        states = {i.name for i in function.inputs if i.type.WhichOneof("type") == "stateType"}
        self._arguments = {name: kind for name, kind in types.items() if name not in states}
        self._states = {name: kind for name, kind in types.items() if name in states}
        self._counts = Counter(operation.type for operation in block.operations)
        self._constants: dict[str, MIL_pb2.Value] = {}
        self._weights: dict[str, Step] = {}  # constexpr: decompressed at each use, never kept
        self._steps: list[Step] = []
        self._scores: dict[str, float] = {}
        for operation in block.operations:
            self._admit(operation)
        last: dict[str, int] = {}
        for index, step in enumerate(self._steps):
            last |= dict.fromkeys(step.names(), index)
        products = {s.outputs[0][0]: s for s in self._steps if s.kind in ("matmul", "einsum")}
        softmaxes = (s.arguments.get("x") for s in self._steps if s.kind == "softmax")
        self._products = {id(products.get(x)) for x in softmaxes if isinstance(x, str)}
        kept = {*block.outputs, *self._states}
        self._release: list[list[str]] = [[] for _ in self._steps]
        for name, index in last.items():
            if name not in kept and name not in self._constants and name not in self._weights:
                self._release[index].append(name)
        self._results = dict.fromkeys(block.outputs)

    def _admit(self, operation: MIL_pb2.Operation) -> None:
        outputs = tuple(
            (output.name, self._package.type_of(output.type)) for output in operation.outputs
        )
        attributes = dict(operation.attributes)
        given = (
            attributes.pop("name").immediateValue.tensor.strings.values
            if "name" in attributes
            else []
        )
        name = given[0] if given else outputs[0][0] if outputs else "without a name"
        for value in [
            *attributes.values(),
            *(b.value for i in operation.inputs.values() for b in i.arguments),
        ]:
            if value.WhichOneof("value") == "blobFileValue":
                self._package.check_blob(value)
        if operation.type == "const":
            if [kind for _, kind in outputs] != [
                self._package.type_of(value.type) for value in attributes.values()
            ] or (attributes.keys() != {"val"}):
                raise self._package.damaged(
                    f"constant {name!r} is not one value of the type it declares"
                )
            self._constants[outputs[0][0]] = attributes["val"]
            return
        arguments: dict[str, Argument] = dict(attributes)
        for key, argument in operation.inputs.items():
            bound = [
                b.name if b.WhichOneof("binding") == "name" else b.value for b in argument.arguments
            ]
            arguments[key] = bound if key == "values" or len(bound) != 1 else bound[0]
        step = Step(operation.type, name, arguments, outputs)
        self._check_step(step, bool(operation.blocks))
        if step.kind.startswith("constexpr_"):
            self._weights[outputs[0][0]] = step
        else:
            self._steps.append(step)

    def _check_step(self, step: Step, has_blocks: bool) -> None:
        if step.kind not in OPS or has_blocks:
            raise self._fail(
                _label(step),
                "is not implemented",
                "build the program without it, or implement it in coreml_backend/interpreter",
            )
        parameters = inspect.signature(OPS[step.kind]).parameters
        unknown = sorted(step.arguments.keys() - parameters)
        if unknown:
            raise self._fail(
                _label(step),
                f"has attributes {unknown} that are not implemented",
                f"expected {list(parameters)}",
            )
        required = {name for name, p in parameters.items() if p.default is inspect.Parameter.empty}
        if required - step.arguments.keys():
            raise self._fail(
                _label(step),
                f"lacks {sorted(required - step.arguments.keys())}",
                "run the conversion again",
            )
        for _, kind in step.outputs:
            if kind.dtype not in STORAGE:
                raise self._fail(
                    _label(step),
                    f"yields {kind.dtype}, which is not implemented",
                    f"expected {list(STORAGE)}",
                )

    def _feature(self, feature: Model_pb2.FeatureDescription) -> Feature:
        kind = feature.type.WhichOneof("Type")
        if feature.type.isOptional or kind not in ("imageType", "multiArrayType"):
            raise self._fail(
                f"feature {feature.name!r}",
                f"is {kind}, optional: {feature.type.isOptional}",
                "only required arrays and images are implemented",
            )
        if kind == "multiArrayType":
            array = feature.type.multiArrayType
            if array.WhichOneof("ShapeFlexibility"):
                raise self._fail(
                    f"feature {feature.name!r}",
                    "has a flexible shape",
                    "convert it with a fixed one",
                )
            dtype = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType).lower()
            return Feature(feature.name, tuple(array.shape), dtype)
        image = feature.type.imageType
        if image.colorSpace not in COLOURS or image.WhichOneof("SizeFlexibility"):
            raise self._fail(
                f"image {feature.name!r}",
                "is grey or of flexible size",
                "convert it as fixed RGB or BGR",
            )
        return Feature(
            feature.name, (image.height, image.width, 3), "uint8", COLOURS[image.colorSpace]
        )

    def _check_description(
        self, face: Model_pb2.FunctionDescription | Model_pb2.ModelDescription
    ) -> None:
        promised = {f.name for f in face.state}
        results = (
            {s[0] for step in self._steps for s in step.outputs}
            | self._arguments.keys()
            | self._constants.keys()
        )
        if (
            self._inputs.keys() != self._arguments.keys()
            or promised != self._states.keys()
            or not (self._outputs.keys() <= self._results.keys() <= results | self._weights.keys())
        ):
            raise self._package.damaged(
                "the description and the program name different inputs, outputs or states"
            )
        for name, kind in self._arguments.items():
            feature = self._inputs[name]
            if kind.shape != (_planes(feature) if feature.image else feature.shape):
                raise self._package.damaged(
                    f"input {name!r} is {kind} in the program and {feature.shape} in the "
                    "description"
                )

    # Running

    def _run(self, values: dict[str, Operand]) -> None:
        for step, release in zip(self._steps, self._release, strict=True):
            values.update(self._perform(step, values))
            for name in release:
                values.pop(name, None)

    def _perform(self, step: Step, values: Mapping[str, Operand]) -> dict[str, np.ndarray]:
        operands = {
            key: self._operand(argument, values) for key, argument in step.arguments.items()
        }
        try:
            result = OPS[step.kind](**operands)
        except (ValueError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
            remedy = "build the program without this form of the operation"
            raise self._fail(_label(step), f"cannot be computed: {error}", remedy) from error
        self._note_scores(step, operands, result)
        results = [] if result is None else result if isinstance(result, list) else [result]
        if len(results) != len(step.outputs):
            raise self._fail(
                _label(step), f"gave {len(results)} results", f"expected {len(step.outputs)}"
            )
        return {
            name: self._settle(step, kind, r)
            for (name, kind), r in zip(step.outputs, results, strict=True)
        }

    def _note_scores(
        self, step: Step, operands: Mapping[str, Operand], result: mil_ops.Result
    ) -> None:
        """Record the largest score of an attention, and warn if float16 cannot hold it.

        Products that are results are checked by `_settle`; this one is inside an operation.
        """
        if step.kind == ATTENTION:
            query, key = operands["query"], operands["key"]
            assert isinstance(query, np.ndarray) and isinstance(key, np.ndarray)
            largest = mil_products.largest_score(query, key)
        elif id(step) in self._products:
            assert isinstance(result, np.ndarray)
            largest = float(np.abs(result).max())
        else:
            return
        known = self._scores.get(step.name, 0.0)
        self._scores[step.name] = max(known, largest)
        if step.kind == ATTENTION and largest > LARGEST_FLOAT16 >= known:
            warnings.warn(
                f"{self._package.path.name}, function {self.function!r}: {_label(step)} multiplies "
                f"queries and keys to {largest:.0f}, more than float16 holds "
                f"({LARGEST_FLOAT16:.0f}); on Core ML it may overflow: use --attention matmul, "
                "which scales the queries first",
                SdxsWarning,
                stacklevel=2,
            )

    def _settle(self, step: Step, kind: TensorType, result: np.ndarray) -> np.ndarray:
        storage = np.dtype(STORAGE[kind.dtype])
        same_kind = result.dtype.kind == storage.kind or {result.dtype.kind, storage.kind} == {
            "i",
            "u",
        }
        if result.shape != kind.shape or not same_kind:
            raise self._fail(
                _label(step), f"gave {result.dtype} {result.shape}", f"the program declares {kind}"
            )
        if storage.kind in "iu":
            limits = np.iinfo(storage)
            if result.size and not (limits.min <= result.min() and result.max() <= limits.max):
                raise self._fail(_label(step), "overflows", f"the program declares {kind}")
        if self._round and kind.dtype == "float16":
            result = result.astype(np.float16)
        result = result.astype(storage, copy=False)
        if self._round and storage.kind == "f" and not np.isfinite(result).all():
            count = int(result.size - np.isfinite(result).sum())
            raise PictureError(
                self._told(
                    _label(step),
                    f"yields {count} of {result.size} values that are not finite in {kind}",
                    "keep it within 65504 by scaling, or compute it in float32",
                )
            )
        return result

    def _operand(self, argument: Argument, values: Mapping[str, Operand]) -> Operand:
        if isinstance(argument, list):
            return [self._operand(item, values) for item in argument]
        return (
            self._value(argument, values)
            if isinstance(argument, str)
            else self._package.read(argument)
        )

    def _value(self, name: str, values: Mapping[str, Operand]) -> Operand:
        if name in values:
            return values[name]
        if name in self._constants:
            return self._package.read(self._constants[name])
        if name in self._weights:
            return self._perform(self._weights[name], values)[name]
        raise self._package.damaged(f"nothing in the program computes {name!r}")

    # Features

    def _take(self, feature: Feature, given: object) -> np.ndarray:
        mode = getattr(given, "mode", "RGB")  # of a PIL image, without importing PIL
        if mode != "RGB":
            raise self._fail(
                f"input {feature.name!r}", f"is an image in mode {mode}", "expected mode RGB"
            )
        array = np.asarray(given)
        program = self._arguments[feature.name]
        kinds = "f" if program.dtype.startswith("float") else "iu"
        fits = array.dtype == np.uint8 if feature.image else array.dtype.kind in kinds
        if array.shape != feature.shape or not fits:
            raise self._fail(
                f"input {feature.name!r}",
                f"is {array.dtype} {array.shape}",
                f"expected {feature.dtype} {feature.shape}",
            )
        if feature.image:
            array = (array if feature.image == "RGB" else array[..., ::-1]).transpose(2, 0, 1)[None]
        if self._round and program.dtype == "float16":
            with np.errstate(over="ignore"):
                array = array.astype(np.float16)
        if self._round and not np.isfinite(array).all():
            raise self._fail(
                f"input {feature.name!r}",
                f"is not finite in {program}",
                "pass finite numbers in its range",
            )
        return array.astype(STORAGE[program.dtype])

    def _give(self, feature: Feature, value: Operand) -> np.ndarray:
        if not isinstance(value, np.ndarray) or value.shape != (
            _planes(feature) if feature.image else feature.shape
        ):
            raise self._package.damaged(
                f"output {feature.name!r} does not have the declared shape {feature.shape}"
            )
        if not feature.image:
            return value.copy()
        if not np.isfinite(value).all():
            raise self._fail(
                f"output {feature.name!r}",
                "holds values that are not finite",
                "expected a picture in 0..255",
            )
        picture = np.rint(np.clip(value[0], 0, 255)).astype(np.uint8).transpose(1, 2, 0)
        return np.ascontiguousarray(picture if feature.image == "RGB" else picture[..., ::-1])

    def _fail(self, where: str, what: str, remedy: str) -> BackendError:
        return BackendError(self._told(where, what, remedy))

    def _told(self, where: str, what: str, remedy: str) -> str:
        package = self._package.path.name
        return f"{package}, function {self.function!r}: {where} {what}; {remedy}"


def _label(step: Step) -> str:
    return f"operation {step.name!r} ({step.kind})"


def _planes(feature: Feature) -> tuple[int, ...]:
    height, width, channels = feature.shape
    return (1, channels, height, width)
