"""Hold the interpreter of Core ML programs against Apple's runtime, by operation and whole frame.

`python -m sdxs.experiments operations [--json PATH]` builds every operation of `graphs/ops.py` as
a tiny float16 program in both formats, feeds both the same numbers, and compares. The interpreter
rounds every result to float16. Apple's runtime, in float32, is the third and exact answer. Then
whole frames of the demo and of small random networks, likewise. What agrees was computed by two
programs that share no line below `graphs/`. Needs the extra `[coreai]`.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors.numpy import save_file

from ...common.backend.gate import probe
from ...common.checkpoint.find import find, open_checkpoint
from ...coreai_backend.ops import CoreAIOps
from ...coreai_backend.single_function import call
from ...coreai_backend.single_function import write_program as write_coreai
from ...coreml_backend.interpreter.interpreter import Interpreter
from ...coreml_backend.ops import MilOps, ct
from ...coreml_backend.single_function import write_program as write_mil
from ...graphs.compression import Compression
from ...graphs.ops import AttentionForm, Ops, Tensor
from ...graphs.weights import Store, Weights
from ...mac_check.fixtures import NAMES, Arrays, distances, tiny_checkpoint, tiny_inputs
from .. import record
from ..options import Options, result_file
from . import coreai, coreml

CHANNELS, SIDE, HEADS, KEYS = 64, 16, 4, 77
MAP = (1, CHANNELS, SIDE, SIDE)
TOKENS = (1, SIDE * SIDE, CHANNELS)
FLAT = (1, CHANNELS, 1, SIDE * SIDE)
LIMIT = 3e-3  # relative L2 between two float16 results of one operation
FRAME_SIDE = 64
# Two float16 results of one frame: each may be as far from the exact one as Core ML's limits say.
FRAME_LIMIT, FRAME_LIMIT_DB = 2 * coreml.X0_LIMIT, coreml.PICTURE_LIMIT_DB - 6

Given = Mapping[str, Tensor]
Body = Callable[[Ops, Given, Weights], Tensor]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. shapes: of its inputs. result: shape of its output."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    result: tuple[int, ...]
    body: Body
    form: AttentionForm = "sdpa"
    compression: Compression = "float16"
    scale: float = 1.0  # standard deviation of the inputs


def _map(name: str, body: Body, result: tuple[int, ...] = MAP, **more: object) -> Operation:
    return Operation(name, {"x": MAP}, result, body, **more)  # type: ignore[arg-type]


def _attention(form: AttentionForm) -> Iterator[Operation]:
    def shape(tokens: int) -> tuple[int, ...]:
        return (1, CHANNELS, 1, tokens) if form == "split_einsum" else (1, tokens, CHANNELS)

    for kind, keys in (("self", SIDE * SIDE), ("cross", KEYS)):
        yield Operation(
            f"{kind}-attention, {form}",
            {"q": shape(SIDE * SIDE), "k": shape(keys), "v": shape(keys)},
            shape(SIDE * SIDE),
            lambda ops, x, w: ops.attention(x["q"], x["k"], x["v"], HEADS),
            form,
        )


def operations() -> list[Operation]:
    """Return every operation that a frame consists of."""
    half = (1, CHANNELS, SIDE // 2, SIDE // 2)
    return [
        _map("convolution 3 x 3", lambda o, x, w: o.conv(x["x"], w["conv"])),
        _map("convolution 1 x 1", lambda o, x, w: o.conv(x["x"], w["point"])),
        _map("convolution, stride 2", lambda o, x, w: o.conv(x["x"], w["conv"], stride=2), half),
        _map(
            "convolution, stride 2, padded at bottom and right",
            lambda o, x, w: o.conv(x["x"], w["conv"], stride=2, pad=(0, 1, 0, 1)),
            half,
        ),
        *(
            _map(
                f"convolution, {kind} weights",
                lambda o, x, w: o.conv(x["x"], w["conv"]),
                compression=kind,
            )
            for kind in ("int8", "palettize8", "palettize4", "palettize2")
        ),
        Operation(
            "linear", {"x": TOKENS}, (1, SIDE * SIDE, 2 * CHANNELS),
            lambda o, x, w: o.linear(x["x"], w["wide"]),
        ),
        Operation(
            "linear, channels first", {"x": FLAT}, (1, 2 * CHANNELS, 1, SIDE * SIDE),
            lambda o, x, w: o.linear(x["x"], w["wide"]),
        ),
        Operation(
            "linear with the LayerNorm's weight and bias", {"x": TOKENS},
            (1, SIDE * SIDE, 2 * CHANNELS),
            lambda o, x, w: o.linear(x["x"], w["wide"], norm=w["norm"]),
        ),
        _map("group norm", lambda o, x, w: o.group_norm(x["x"], w["norm"], 8, 1e-5)),
        _map("group norm, deviation 20", lambda o, x, w: o.group_norm(x["x"], w["norm"], 8, 1e-5),
             scale=20.0),
        Operation("layer norm", {"x": TOKENS}, TOKENS, lambda o, x, w: o.layer_norm(x["x"], w)),
        Operation(
            "layer norm, channels first", {"x": FLAT}, FLAT,
            lambda o, x, w: o.layer_norm(x["x"], w),
        ),
        *_attention("sdpa"),
        *_attention("matmul"),
        *_attention("split_einsum"),
        *(
            _map(name, (lambda o, x, w, each=name: getattr(o, each)(x["x"])), scale=3.0)  # type: ignore[misc]
            for name in ("silu", "gelu", "relu", "tanh", "round")
        ),
        _map("upsample", lambda o, x, w: o.upsample(x["x"]), (1, CHANNELS, 2 * SIDE, 2 * SIDE)),
        _map("to tokens", lambda o, x, w: o.to_tokens(x["x"]), TOKENS),
        _map("to tokens, channels first", lambda o, x, w: o.to_tokens(x["x"]), FLAT,
             form="split_einsum"),
        Operation("from tokens", {"x": TOKENS}, MAP, lambda o, x, w: o.from_tokens(x["x"], MAP)),
        Operation(
            "prompt, channels first", {"x": (1, KEYS, CHANNELS)}, (1, CHANNELS, 1, KEYS),
            lambda o, x, w: o.prompt_tokens(x["x"]), "split_einsum",
        ),
        *(
            Operation(
                name, {"x": MAP, "z": MAP}, MAP,
                (lambda o, x, w, each=name: getattr(o, each)(x["x"], x["z"])),  # type: ignore[misc]
            )
            for name in ("add", "sub", "mul")
        ),
        Operation(
            "concat", {"x": MAP, "z": MAP}, (1, 2 * CHANNELS, SIDE, SIDE),
            lambda o, x, w: o.concat([x["x"], x["z"]]),
        ),
        _map("halves", lambda o, x, w: o.halves(x["x"])[1], (1, CHANNELS // 2, SIDE, SIDE)),
        _map("divide", lambda o, x, w: o.divide(x["x"], 3)),
        _map("affine", lambda o, x, w: o.affine(x["x"], 1 / 127.5, -1), scale=100.0),
        _map("clip", lambda o, x, w: o.clip(x["x"], 0, 255), scale=200.0),
        _map("mean", lambda o, x, w: o.mean(x["x"], 3), (1, CHANNELS, SIDE, 1)),
    ]  # fmt: skip


@contextmanager
def _weights(folder: Path, compression: Compression) -> Iterator[Weights]:
    generator = np.random.default_rng(5)

    def normal(*shape: int) -> np.ndarray:
        fan = int(np.prod(shape[1:])) or 1
        return (generator.standard_normal(shape) / np.sqrt(fan)).astype(np.float32)

    path = folder / "weights.safetensors"
    if not path.exists():
        save_file(
            {
                "conv.weight": normal(CHANNELS, CHANNELS, 3, 3),
                "conv.bias": normal(CHANNELS) / 8,
                "point.weight": normal(CHANNELS, CHANNELS, 1, 1),
                "point.bias": normal(CHANNELS) / 8,
                "wide.weight": normal(2 * CHANNELS, CHANNELS),
                "wide.bias": normal(2 * CHANNELS) / 8,
                "norm.weight": 1 + normal(CHANNELS) / 8,
                "norm.bias": normal(CHANNELS) / 8,
            },
            path,
        )
    with Store(path, compression) as store:
        yield Weights(store)


def compare(operation: Operation, folder: Path) -> dict[str, object]:
    """Run one operation three ways; return the largest difference and relative L2 of each pair."""
    generator = np.random.default_rng(7)
    given = {
        name: (operation.scale * generator.standard_normal(shape))
        .astype(np.float16)
        .astype(np.float32)
        for name, shape in operation.shapes.items()
    }
    made = {}
    with _weights(folder, operation.compression) as weights:
        package = folder / "operation.mlpackage"
        mil = MilOps(operation.form)
        write_mil(
            package,
            operation.shapes,
            lambda x: operation.body(mil, x, weights),
            ct.target.iOS18,
        )
        made["interpreter"] = np.asarray(
            Interpreter(package, round_float16=True).predict(dict(given))["y"]
        )
        for name, dtype in (("runtime", np.float16), ("exact", np.float32)):
            if name == "exact" and operation.compression != "float16":
                continue  # compressed weights are float16
            asset, ops = folder / f"{name}.aimodel", CoreAIOps(operation.form, dtype)
            write_coreai(
                asset,
                operation.shapes,
                lambda x, ops=ops: operation.body(ops, x, weights),  # type: ignore[misc]
                ops,
                operation.result,
            )
            made[name] = call(asset, given)["y"]
    size = np.abs(made.get("exact", made["runtime"])).max()
    figures: dict[str, object] = {"operation": operation.name, "largest": float(size)}
    for name, (one, other) in {
        "interpreter and runtime": ("interpreter", "runtime"),
        "interpreter and exact": ("interpreter", "exact"),
        "runtime and exact": ("runtime", "exact"),
    }.items():
        if one in made and other in made:
            figures[name] = _apart(made[one], made[other])
    return figures


def _apart(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    difference = one.astype(np.float64) - other
    norm = float(np.linalg.norm(other.astype(np.float64)))
    return {
        "largest_difference": float(np.abs(difference).max()),
        "relative_l2": float(np.linalg.norm(difference)) / norm if norm else 0.0,
    }


def frames() -> Iterator[dict[str, object]]:
    """Compare a whole frame of every checkpoint, in every form of attention, as `compare` does.

    apart: relative L2 of x0, and dB of the picture.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in ("demo", *NAMES):
            if name == "demo":
                checkpoint = find("demo", download=False)
                inputs = replace(tiny_inputs(checkpoint), frame=probe(checkpoint, FRAME_SIDE)[0])
            else:
                checkpoint = open_checkpoint(tiny_checkpoint(Path(folder), name))
                inputs = tiny_inputs(checkpoint)
            exact = coreai.run_program(checkpoint, inputs)
            for form in get_args(AttentionForm):
                interpreter = coreml.run_program(checkpoint, inputs, form)
                runtime = coreai.run_program(checkpoint, inputs, form, "float16")
                yield {
                    "checkpoint": name,
                    "form": form,
                    "interpreter and runtime": _apart_frames(interpreter, runtime),
                    "interpreter and exact": _apart_frames(interpreter, exact),
                    "runtime and exact": _apart_frames(runtime, exact),
                }


def _apart_frames(one: Arrays, other: Arrays) -> dict[str, float]:
    relative, quality = distances(one, other)
    return {"x0_relative_l2": relative, "picture_db": quality}


@dataclass(frozen=True, slots=True)
class OperationsOptions(Options):
    """Where the figures go."""

    json: Path | None = result_file()


def run(options: OperationsOptions) -> int:
    """Compare every operation and frame; return 1 if a pair is further apart than its limit."""
    rows, bad = [], []
    for operation in operations():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(operation, Path(folder)))
        pair: Any = rows[-1]["interpreter and runtime"]
        exact: Any = rows[-1].get("interpreter and exact")
        apart = f"{pair['largest_difference']:.1e}, relative {pair['relative_l2']:.1e}"
        print(
            f"{operation.name}: {apart}", f"to float32 {exact['relative_l2']:.1e}" if exact else ""
        )
        if not pair["relative_l2"] < LIMIT:
            bad.append(operation.name)
    whole = []
    for row in frames():
        pair = row["interpreter and runtime"]
        whole.append(row)
        print(row["checkpoint"], row["form"], *(f"{value:.3g}" for value in pair.values()))
        if not (pair["x0_relative_l2"] < FRAME_LIMIT and pair["picture_db"] > FRAME_LIMIT_DB):
            bad.append(f"{row['checkpoint']}, {row['form']}")
    if bad:
        print(f"further apart than the limit: {'; '.join(bad)}")
    if options.json:
        limits = {"operation": LIMIT, "x0": FRAME_LIMIT, "picture_db": FRAME_LIMIT_DB}
        figures = {"limits": limits, "operations": rows, "frames": whole}
        record.write(options.json, figures, options)
    return 1 if bad else 0
