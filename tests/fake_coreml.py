"""A strict fake of coremltools' calls into Core ML, after its documentation and its bridge.

Programs run on the reference interpreter. Array inputs must be float32, writable, contiguous and
stay where they are for the model's life (coremltools#2827, #2829); an image must be Pillow's in
mode RGB, and comes back as RGBA; the dict that `predict` is given is its own to change.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import coremltools as ct
import numpy as np

from sdxs.coreml_backend.interpreter.interpreter import Interpreter


class StrictModel:
    """ct.models.CompiledMLModel."""

    made: ClassVar[list["StrictModel"]] = []
    fails = False
    refuses_to_load = False

    def __init__(
        self, path: str, compute_units: ct.ComputeUnit, function_name: str | None = None
    ) -> None:
        if not isinstance(path, str) or not isinstance(compute_units, ct.ComputeUnit):
            raise TypeError('The "path" parameter must be of type "str".')
        assert path.endswith(".mlmodelc")
        if StrictModel.refuses_to_load or not Path(path).exists():
            raise RuntimeError(f"Error reading compiled model at {path}")
        self.compute_unit = compute_units
        self.function_name = function_name
        self.path = path
        self._model = Interpreter(
            Path(path).with_suffix(".mlpackage"), function_name, round_float16=True
        )
        self._addresses: dict[str, int] = {}
        self._proxy = self
        self._inside_ns: int | None = None
        StrictModel.made.append(self)

    def get_last_predict_duration_in_nano_seconds(self) -> int | None:
        return self._inside_ns

    def predict(self, data: dict[str, object], state: object = None) -> dict[str, object]:
        from PIL import Image

        began = time.perf_counter_ns()
        if type(data) is not dict:
            raise TypeError(
                f'"data" parameter must be either a dict or list of dict, but got {type(data)}.'
            )
        for name, value in data.items():
            if self._model.inputs[name].image:
                if not isinstance(value, Image.Image) or value.mode != "RGB":
                    raise RuntimeError("value type not convertible")
                continue
            assert isinstance(value, np.ndarray) and value.dtype == np.float32, name
            assert value.flags.c_contiguous and value.flags.writeable, name
            assert self._addresses.setdefault(name, value.ctypes.data) == value.ctypes.data, (
                f"{name} moved between calls"
            )
        if StrictModel.fails:
            raise RuntimeError("Error in declaring network.")
        outputs: dict[str, object] = dict(self._model.predict(data))
        data.clear()  # the bridge may change the dict it was given
        for name, feature in self._model.outputs.items():
            if feature.image:
                outputs[name] = Image.fromarray(outputs[name]).convert("RGBA")
        self._inside_ns = time.perf_counter_ns() - began
        return outputs


def compile_model(model: str, destination_path: str) -> str:
    """ct.models.utils.compile_model."""
    if not model.endswith(".mlpackage") or not Path(model).exists():
        raise Exception(f"{model} is not a model")
    assert destination_path.endswith(".mlmodelc") and not Path(destination_path).exists()
    Path(destination_path).mkdir()
    return destination_path


# A compute plan, with the classes that coremltools' carries; devices are told apart by their class
# alone.


class MLCPUComputeDevice:
    pass


class MLGPUComputeDevice:
    pass


class MLNeuralEngineComputeDevice:
    pass


@dataclass(frozen=True)
class Usage:
    preferred_compute_device: object
    supported_compute_devices: list[object]


@dataclass(frozen=True)
class Cost:
    weight: float


@dataclass(frozen=True)
class Block:
    operations: list["Operation"]


@dataclass(frozen=True)
class Operation:
    operator_name: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class ProgramFunction:
    block: Block


@dataclass(frozen=True)
class Program:
    functions: dict[str, ProgramFunction]


@dataclass(frozen=True)
class Structure:
    program: Program | None


class StrictPlan:
    """MLComputePlan: norms run on the CPU; operations of nested blocks have no usage."""

    def __init__(self, path: str, compute_units: ct.ComputeUnit) -> None:
        units = {
            ct.ComputeUnit.CPU_AND_NE: MLNeuralEngineComputeDevice(),
            ct.ComputeUnit.CPU_ONLY: MLCPUComputeDevice(),
        }
        self._main = units.get(compute_units, MLGPUComputeDevice())
        package = Path(path).with_suffix(".mlpackage")
        spec = ct.utils.load_spec(str(package)).mlProgram
        functions = {}
        for name, function in spec.functions.items():
            (block,) = function.block_specializations.values()
            functions[name] = ProgramFunction(
                Block([Operation(f"ios18.{op.type}") for op in block.operations])
            )
        self.model_structure = Structure(Program(functions))

    @classmethod
    def load_from_path(
        cls, path: str, compute_units: ct.ComputeUnit = ct.ComputeUnit.ALL
    ) -> "StrictPlan":
        if not isinstance(path, str) or not path.endswith(".mlmodelc") or not Path(path).exists():
            raise RuntimeError(f"{path} is not a compiled model")
        return cls(path, compute_units)

    def get_compute_device_usage_for_mlprogram_operation(
        self, operation: Operation
    ) -> Usage | None:
        assert isinstance(operation, Operation)
        kind = operation.operator_name.rpartition(".")[2]
        if kind.startswith("const"):
            return None
        device = MLCPUComputeDevice() if kind == "layer_norm" else self._main
        return Usage(device, [device, MLCPUComputeDevice()])

    def get_estimated_cost_for_mlprogram_operation(self, operation: Operation) -> Cost | None:
        kind = operation.operator_name.rpartition(".")[2]
        return Cost(0.5) if kind == "conv" else Cost(0.0) if kind == "layer_norm" else None
