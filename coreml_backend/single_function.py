"""Write a small program of a few float16 operations, to measure or to question Core ML with."""

from collections.abc import Callable, Mapping
from pathlib import Path

import coremltools as ct
import numpy as np

from .ops import Function, Program, Var, mb, types
from .program import _quiet


def write_program(
    package: Path,
    shapes: Mapping[str, tuple[int, ...]],
    body: Callable[[Mapping[str, Var]], Var],
    target: ct.target = ct.target.iOS17,
) -> None:
    """Write an .mlpackage with float32 inputs of these shapes and one float32 output, y.

    body: builds the output from the inputs, all of them float16.
    """
    placeholders = {
        name: mb.placeholder(shape=shape, dtype=types.fp32) for name, shape in shapes.items()
    }
    with Function(placeholders, opset_version=target) as function:
        halves = {name: mb.cast(x=function.inputs[name], dtype="fp16") for name in shapes}
        function.set_outputs([mb.cast(x=body(halves), dtype="fp32", name="y")])
    program = Program()
    program.add_function("main", function)
    inputs = [
        ct.TensorType(name=name, shape=shape, dtype=np.float32) for name, shape in shapes.items()
    ]
    with _quiet():
        ct.convert(
            program,
            inputs=inputs,
            convert_to="mlprogram",
            skip_model_load=True,
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.CLEANUP,
            package_dir=str(package),
        )
