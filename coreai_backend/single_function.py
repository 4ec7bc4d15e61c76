"""Write and run a small program of a few operations, to measure or to question Core AI with."""

import asyncio
import gc
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from coreai.authoring import AIProgram, Module, TensorType, Value
from coreai.runtime import AIModel, InferenceFunction, NDArray, SpecializationOptions

from .ops import CoreAIOps, Tensor
from .options import has_framework
from .private import compile_for_linux, graph, view

FUNCTION = "main"


def write_program(
    asset: Path,
    shapes: Mapping[str, tuple[int, ...]],
    body: Callable[[Mapping[str, Tensor]], Tensor],
    ops: CoreAIOps,
    result: tuple[int, ...],
) -> None:
    """Write an .aimodel with float32 inputs of these shapes and one float32 output, y.

    body: builds the output from the inputs, all of them in the dtype of `ops`. result: its shape.
    """
    module = Module.create()

    def function(*values: Value) -> Value:
        given = {name: ops.lower(Tensor(value)) for name, value in zip(shapes, values, strict=True)}
        made: Value = ops.to_float32(body(given)).value
        return made

    inputs = {name: TensorType(shape, np.float32) for name, shape in shapes.items()}
    with module:
        graph(FUNCTION, inputs, {"y": TensorType(result, np.float32)}, function)
    AIProgram(module).save_asset(asset)


def call(
    asset: Path,
    given: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray] | None = None,
    function: str = FUNCTION,
    wishes: SpecializationOptions | None = None,
) -> dict[str, np.ndarray]:
    """Run a function of a program once; return copies of its outputs.

    state: its value before. wishes: of the compute unit, on macOS 27.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = asset
        if not has_framework():
            path = Path(folder) / f"{asset.stem}.aimodelx"
            path.mkdir()
            compile_for_linux(asset, path)
        return asyncio.run(_called(path, given, state or {}, function, wishes))


async def _called(
    path: Path,
    given: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray],
    name: str,
    wishes: SpecializationOptions | None,
) -> dict[str, np.ndarray]:
    model = await AIModel.load(path, wishes) if wishes else await AIModel.load(path)
    function: InferenceFunction | None = model.load_function(name)
    assert function is not None
    inputs, states = ({key: NDArray(value) for key, value in of.items()} for of in (given, state))
    made = await function(inputs, states) if states else await function(inputs)
    found = {key: view(value).copy() for key, value in made.items()}
    # while a model lives, the end of the interpreter may abort
    del made, inputs, states, function, model
    gc.collect()
    await asyncio.sleep(0)
    return found
