"""A strict fake of coremltools' calls into Core ML, after its documentation, bridge and reports.

Programs run on the reference interpreter. Where the real one lets a mistake pass, the fake refuses
it. Array inputs must be float32, writable, contiguous and stay where they are. The fake keeps its
hold on them after `predict` and drops it later, from a thread of its own: if that was the last
reference, the real process dies (coremltools#2827, #2829), and the fake notes it in `freed`. An
image must be Pillow's in mode RGB, and comes back as RGBA. The dict that `predict` is given is its
own to change. `dies` ends the process, as Core ML does, at the load or the prediction it names.
"""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import coremltools as ct
import numpy as np
import pytest

from sdxs.coreml_backend import prepare
from sdxs.coreml_backend.interpreter.interpreter import Interpreter

COMPILED = "model.mil"
REFERENCES_OF_THE_FAKE = 2  # its variable, and the argument of getrefcount


class StrictModel:
    """ct.models.CompiledMLModel.

    fails: predictions raise. refuses_to_load: loads raise. dies: 'load' or 'predict' and a signal's
    name, as 'load SIGABRT'. neural_engine_refuses: a load for it says so on stderr and succeeds.
    late_s: seconds from a prediction to the release of its inputs.
    """

    made: ClassVar[list["StrictModel"]] = []
    freed: ClassVar[list[str]] = []
    releases: ClassVar[list[threading.Timer]] = []
    fails = False
    refuses_to_load = False
    neural_engine_refuses = False
    dies = ""
    late_s = 1.0

    def __init__(
        self, path: str, compute_units: ct.ComputeUnit, function_name: str | None = None
    ) -> None:
        if not isinstance(path, str) or not isinstance(compute_units, ct.ComputeUnit):
            raise TypeError('The "path" parameter must be of type "str".')
        if not isinstance(function_name, str | None):
            raise TypeError('The "function_name" parameter must be of type "str".')
        assert path.endswith(".mlmodelc")
        _die_at("load")
        if StrictModel.refuses_to_load or not (Path(path) / COMPILED).is_file():
            raise RuntimeError(f"Error reading compiled model at {path}")
        package = Path(path).with_suffix(".mlpackage")
        functions = ct.utils.load_spec(str(package)).mlProgram.functions
        if function_name is not None and function_name not in functions:
            raise RuntimeError(f"Function {function_name} is not in the model")
        if StrictModel.neural_engine_refuses and compute_units == ct.ComputeUnit.CPU_AND_NE:
            os.write(2, b"E5RT: ANECCompile() FAILED\n")
        self.compute_unit = compute_units
        self.function_name = function_name
        self.path = path
        self._model = Interpreter(package, function_name, round_float16=True)
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
        _die_at("predict")
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
        _hold([(name, value) for name, value in data.items() if isinstance(value, np.ndarray)])
        data.clear()  # the bridge may change the dict it was given
        for name, feature in self._model.outputs.items():
            if feature.image:
                outputs[name] = Image.fromarray(outputs[name]).convert("RGBA")
        self._inside_ns = time.perf_counter_ns() - began
        return outputs


def _die_at(moment: str) -> None:
    at, _, how = StrictModel.dies.partition(" ")
    if at == moment:
        os.kill(os.getpid(), getattr(signal, how))


def _hold(values: list[tuple[str, object]]) -> None:
    """Release these inputs later, from another thread, whether or not the model still lives."""
    timer = threading.Timer(StrictModel.late_s, _release, [values])
    timer.daemon = True
    timer.start()
    StrictModel.releases.append(timer)


def _release(values: list[tuple[str, object]]) -> None:
    while values:
        name, value = values.pop()
        if sys.getrefcount(value) <= REFERENCES_OF_THE_FAKE:
            StrictModel.freed.append(name)


def releases() -> list[str]:
    """Wait until every input is released; return those whose last reference was the fake's."""
    while StrictModel.releases:
        StrictModel.releases.pop().join()
    return StrictModel.freed


class WarningModel:
    """ct.models.MLModel: a load that fails is a warning, and the first prediction raises."""

    def __init__(self, model: str, **_: object) -> None:
        warnings.warn(
            "You will not be able to run predict() on this Core ML model.", RuntimeWarning, 2
        )

    def predict(self, data: dict[str, object]) -> dict[str, object]:
        raise Exception("Unable to load CoreML.framework.")


def compile_model(model: str, destination_path: str) -> str:
    """ct.models.utils.compile_model: compiles in the temporary folder, then moves the result.

    Where the destination exists, the move ends inside it.
    """
    if not isinstance(model, str):
        raise TypeError("model must be a path")
    if not model.endswith(".mlpackage") or not (Path(model) / "Manifest.json").exists():
        raise RuntimeError(f"Error compiling model: A valid manifest does not exist at {model}.")
    made = Path(tempfile.mkdtemp()) / f"{Path(model).stem}.mlmodelc"
    made.mkdir()
    (made / COMPILED).write_text("program")
    shutil.move(made, destination_path)
    made.parent.rmdir()
    return destination_path


def install(patch: pytest.MonkeyPatch) -> list[str]:
    """Let this process take the fake for Core ML on macOS; return the packages it compiles.

    What runs in a child process otherwise runs in this one, where the fake is.
    """
    compiled: list[str] = []

    def noted(model: str, destination_path: str) -> str:
        compiled.append(Path(model).stem)
        return compile_model(model, destination_path)

    patch.setattr(prepare, "sys", type("System", (), {"platform": "darwin"}))
    patch.setattr(prepare, "run_apart", _run_here)
    patch.setattr(ct.models.utils, "compile_model", noted)
    patch.setattr(ct.models, "CompiledMLModel", StrictModel)
    patch.setattr(ct.models.compute_plan, "MLComputePlan", StrictPlan)
    for name, value in (
        ("fails", False),
        ("refuses_to_load", False),
        ("neural_engine_refuses", False),
        ("dies", ""),
        ("late_s", 0.05),
    ):
        patch.setattr(StrictModel, name, value)
    StrictModel.made.clear()
    StrictModel.freed.clear()
    return compiled


def _run_here(
    name: str, function: str, *arguments: object, report: Callable[[str, float], None], **_: object
) -> object:
    module, attribute = function.split(":")
    return getattr(import_module(module), attribute)(*arguments, report)


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
    preferred_compute_device: object | None
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


def _opset(kind: str) -> str:
    """Return the opset that an operation came with, which its name in a plan begins with."""
    return "ios18" if kind == "scaled_dot_product_attention" else "ios16"


class StrictPlan:
    """MLComputePlan of the default function; operations of the others have no usage.

    Norms run on the CPU. Reshapes have no usage and transposes no device, which Core ML may answer
    for any operation. Operations of nested blocks belong to the function around them.
    """

    def __init__(self, path: str, compute_units: ct.ComputeUnit) -> None:
        units = {
            ct.ComputeUnit.CPU_AND_NE: MLNeuralEngineComputeDevice(),
            ct.ComputeUnit.CPU_ONLY: MLCPUComputeDevice(),
        }
        self._main = units.get(compute_units, MLGPUComputeDevice())
        package = Path(path).with_suffix(".mlpackage")
        spec = ct.utils.load_spec(str(package))
        functions = {}
        for name, function in spec.mlProgram.functions.items():
            (block,) = function.block_specializations.values()
            functions[name] = ProgramFunction(
                Block([Operation(f"{_opset(op.type)}.{op.type}") for op in block.operations])
            )
        self.model_structure = Structure(Program(functions))
        default = spec.description.defaultFunctionName or "main"
        self._others = {
            id(operation)
            for name, function in functions.items()
            if name != default
            for operation in function.block.operations
        }

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
        if kind.startswith("const") or kind == "reshape" or id(operation) in self._others:
            return None
        if kind == "transpose":
            return Usage(None, [])
        device = MLCPUComputeDevice() if kind == "layer_norm" else self._main
        return Usage(device, [device, MLCPUComputeDevice()])

    def get_estimated_cost_for_mlprogram_operation(self, operation: Operation) -> Cost | None:
        kind = operation.operator_name.rpartition(".")[2]
        return Cost(0.5) if kind == "conv" else Cost(0.0) if kind == "layer_norm" else None
