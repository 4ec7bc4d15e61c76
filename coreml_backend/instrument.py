"""Measure Core ML for bench: work per stage, peaks of the device, times of the stages.

Counting needs no Mac. Peaks and stage times need Core ML. Tests use the reference interpreter,
whose times mean nothing.
"""

import math
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import coremltools as ct
import numpy as np

from ..common.backend.protocol import Backend
from ..common.bench.measure.instrument import Peaks, StageCost
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError, UsageError
from ..common.picture.size import FrameSize, Size
from ..graphs.ops import AttentionForm
from . import inputs
from .backend import CoreMLBackend
from .compute_plan import describe
from .ops import Var, mb
from .options import STAGES, UNITS, Variant
from .prepare import find_or_build
from .program import mil_program
from .runner import Model, open_runner
from .single_function import write_program

Operation: TypeAlias = ct.converters.mil.mil.Operation
_SIDE = 4096
_COPY_SHAPE = (1, 64, 1024, 1024)
PRODUCT_INPUT = (1, 1, 1)
_REPEATS = 8


class CoreMLInstrument:
    """The Core ML implementation of `common.bench.measure.instrument.Instrument`."""

    def count(
        self, checkpoint: Checkpoint, size: Size, attention: AttentionForm = "sdpa"
    ) -> list[StageCost]:
        checkpoint.check_size(size)
        costs = []
        for stage in STAGES:
            program, _ = mil_program(
                checkpoint, Variant(FrameSize.of(size), attention, "float32", "float16", stage)
            )
            cost = StageCost(stage, 0, 0, 0)
            for op in program.functions["main"].operations:
                cost = cost.plus(*_work(op))
            costs.append(cost)
        return costs

    def peaks(self, dtype: str) -> Peaks:
        """Measure a program of products and a program of softmaxes on CPU and GPU. Needs macOS.

        Each makes its own data from a few numbers: converting large inputs would be timed, too.
        """
        with tempfile.TemporaryDirectory() as folder:
            product, copy = Path(folder) / "product.mlpackage", Path(folder) / "copy.mlpackage"
            layers = write_product(product, _SIDE)
            passes = write_copy(copy, _COPY_SHAPE)
            seconds = _best(open_model(product), inputs.lend(PRODUCT_INPUT)) / layers
            copied = _best(open_model(copy), inputs.lend(copy_input(_COPY_SHAPE))) / passes
        array_bytes = 2 * math.prod(_COPY_SHAPE)
        how = (
            f"{layers} linears of {_SIDE} x {_SIDE} in one program; {passes} passes over "
            f"{array_bytes >> 20} MB float16"
        )
        return Peaks(2 * _SIDE**3 / seconds, 2 * array_bytes / copied, "float16", how)

    def notes(self, backend: Backend) -> list[str]:
        """Return Core ML's plan: the work per compute unit, and what its memory leaves out."""
        loaded = _coreml(backend)
        lines = describe(find_or_build(loaded.checkpoint, loaded.options), loaded.options)
        if loaded.options.on_neural_engine and loaded.options.on_core_ml:
            lines.append(
                "memory of the Neural Engine is another process's, so its footprint is too small"
            )
        return lines

    def profile(self, backend: Backend, picture: np.ndarray, frames: int) -> dict[str, list[float]]:
        """Time one program per stage in turn, on the compute units of the backend.

        Runs in the backend's process and builds what is not cached. Times in ms by stage.
        """
        loaded = _coreml(backend)
        options = loaded.options
        if not options.placement:
            chosen = options.units("frame")
            unit = next(name for name, units in UNITS.items() if units == chosen)
            options = replace(options, placement=(unit,) * len(STAGES), compute_units=None)
        built = find_or_build(loaded.checkpoint, options)
        runners = [open_runner(built, stage, loaded.checkpoint, options) for stage in STAGES]
        times: dict[str, list[float]] = {name: [] for name in (*STAGES, "out")}
        out = np.empty_like(picture)
        for number in range(frames + 1):
            made, stamps = picture, [time.perf_counter_ns()]
            for runner in runners:
                made, _ = runner.run(made)
                stamps.append(time.perf_counter_ns())
            np.copyto(out, made)
            stamps.append(time.perf_counter_ns())
            if number >= 1:
                for name, began, ended in zip(times, stamps[:-1], stamps[1:], strict=True):
                    times[name].append((ended - began) / 1e6)
        for runner in runners:
            runner.close()
        return times


def _coreml(backend: Backend) -> CoreMLBackend:
    if not isinstance(backend, CoreMLBackend):
        raise BackendError("coreml: only a Core ML backend can be profiled")
    return backend


def open_model(path: Path, runtime: str = "coreml") -> Model:
    """Open the package of a peak measurement on Core ML or on the interpreter.

    Raises UsageError without macOS, BackendError if loading fails.
    """
    if runtime == "reference":
        from .interpreter.interpreter import Interpreter

        return Interpreter(path, round_float16=True)
    if sys.platform != "darwin":
        raise UsageError(
            "Core ML needs macOS; without it sdxs can count its work but not measure its speed"
        )
    try:
        # MLModel only warns if it cannot load a program, and fails at the first prediction
        compiled = ct.models.utils.compile_model(str(path), str(path.with_suffix(".mlmodelc")))
        model: Model = ct.models.CompiledMLModel(compiled, ct.ComputeUnit.CPU_AND_GPU)
    except Exception as error:  # coremltools raises bare Exception and RuntimeError
        raise BackendError(
            f"coreml: {path.name} cannot be loaded ({error}); check `sdxs doctor`"
        ) from None
    return model


def _best(model: Model, x: np.ndarray) -> float:
    """Return the seconds of the fastest run."""
    x[...] = 1
    model.predict({"x": x})
    best = math.inf
    for _ in range(_REPEATS):
        began = time.perf_counter()
        model.predict({"x": x})
        best = min(best, time.perf_counter() - began)
    inputs.give_back([x])
    return best


def _work(op: Operation) -> tuple[int, int, int]:
    """Return FLOPs, weights and activations of a convolution or product; zeros for others."""
    y = op.outputs[0]
    if op.op_type in ("conv", "linear"):
        weight, bias = op.inputs["weight"], op.inputs.get("bias")
        weights = _size(weight) + (_size(bias) if bias is not None else 0)
        return (
            2 * _size(y) * (_size(weight) // weight.shape[0]),
            weights,
            _size(op.inputs["x"]) + _size(y),
        )
    if op.op_type == "scaled_dot_product_attention":
        q, k, v = (op.inputs[name] for name in ("query", "key", "value"))
        return 4 * _size(q) * k.shape[-2], 0, _size(q) + _size(k) + _size(v) + _size(y)
    if op.op_type == "matmul":
        a, b = op.inputs["x"], op.inputs["y"]
        return 2 * _size(y) * _inner(op, a), 0, _size(a) + _size(b) + _size(y)
    if op.op_type == "einsum":
        a, b = op.inputs["values"]
        # bkhc,bchq sums over channels, bchk,bkhq over keys
        inner = a.shape[3]
        return 2 * _size(y) * inner, 0, _size(a) + _size(b) + _size(y)
    return 0, 0, 0


def _inner(op: Operation, a: Var) -> int:
    turned = op.inputs.get("transpose_x")
    return int(a.shape[-2 if turned is not None and turned.val else -1])


def _size(value: Var) -> int:
    return math.prod(value.shape)


def write_product(path: Path, side: int, layers: int = 4) -> int:
    """Write a program of a chain of `layers` linears over (1, side, side); return `layers`.

    Its input scales a random matrix, float32 PRODUCT_INPUT.
    """
    weight, matrix = product_arrays(side)

    def chain(given: Mapping[str, Var]) -> Var:
        x = mb.mul(x=matrix[None], y=given["x"])
        for _ in range(layers):
            x = mb.linear(x=x, weight=weight)
        # a small output keeps the copy back to Python out of the measurement
        return mb.reduce_max(x=x, axes=[2], keep_dims=True)

    write_program(path, {"x": PRODUCT_INPUT}, chain)
    return layers


def product_arrays(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the linears' weight and the matrix before them, float16 (side, side)."""
    weight, matrix = np.random.default_rng(1).standard_normal((2, side, side), np.float32)
    return (weight / np.sqrt(side, dtype=np.float32)).astype(np.float16), matrix.astype(np.float16)


def write_copy(path: Path, shape: tuple[int, int, int, int], layers: int = 15) -> int:
    """Write a program that reads and writes an array of `shape` in every pass; return the passes.

    A softmax along rows is bound by memory, and no compiler merges two. Making the array is a
    write, finding its largest value a read: together one more pass. Its input, float32
    `copy_input(shape)`, scales the channels of a pattern.
    """
    pattern = copy_pattern(shape)

    def chain(given: Mapping[str, Var]) -> Var:
        x = mb.mul(x=pattern, y=given["x"])
        for _ in range(layers):
            x = mb.softmax(x=x, axis=-1)
        return mb.reduce_max(x=x, axes=[1, 2, 3], keep_dims=True)

    write_program(path, {"x": copy_input(shape)}, chain)
    return layers + 1


def copy_input(shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return (1, shape[1], 1, 1)


def copy_pattern(shape: tuple[int, int, int, int]) -> np.ndarray:
    """Return the pattern of `write_copy`, float16 (1, 1, H, W)."""
    return np.random.default_rng(2).standard_normal((1, 1, *shape[2:])).astype(np.float16)
