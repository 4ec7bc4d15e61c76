"""The private parts of coreai-core that `coreai_backend/private.py` calls, each by what it does.

If one of these fails under another version, that version cannot be allowed.
"""

import asyncio
import gc
import re
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import coreai_here  # noqa: F401 - skips this file where Apple's runtime cannot run
from sdxs.coreai_backend.ops import CoreAIOps, Tensor
from sdxs.coreai_backend.private import (
    NDArray,
    TensorType,
    Value,
    at_begin_of_module,
    authoring,
    compile_for_linux,
    composite_declaration,
    graph,
    make_state,
    packed_constant,
    view,
    writable,
)
from sdxs.coreai_backend.program import AIProgram, Module
from sdxs.coreai_backend.runner import AIModel
from sdxs.graphs.compression import compress

ROW = TensorType((1, 4), np.float32)
Arrays = Mapping[str, np.ndarray]
Body = Callable[..., object]


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def module_of(
    body: Body,
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
    state: str = "",
) -> Module:
    """Return a module with one graph named main. state: name of an input and output."""
    module = Module.create()
    with module:
        made = graph("main", inputs, outputs, body)
        if state:
            make_state(made, state)
    return module


def opened(module: Module, folder: Path) -> tuple[AIModel, object]:
    """Save a module, compile it and open it; returns the model and its function."""
    source, compiled = folder / "main.aimodel", folder / "main.aimodelx"
    AIProgram(module).save_asset(source)
    compiled.mkdir()
    compile_for_linux(source, compiled)
    model = asyncio.run(AIModel.load(compiled))
    return model, model.load_function("main")


def run(module: Module, given: Arrays, folder: Path) -> dict[str, np.ndarray]:
    model, function = opened(module, folder)
    arrays = {name: NDArray(each) for name, each in given.items()}
    made = asyncio.run(_call(function, arrays, {}))
    result = {name: view(each) for name, each in made.items()}
    del model, function, made
    gc.collect()
    return result


async def _call(function: Callable, inputs: dict, states: dict) -> dict[str, NDArray]:
    return await function(inputs, states)


def test_a_graph_keeps_the_names_of_its_inputs_and_outputs(tmp_path: Path) -> None:
    """The order of the outputs that a call returns differs from process to process."""

    def body(first: Value, second: Value) -> tuple[Value, Value]:
        return authoring.broadcasting_sub(first, second), authoring.relu(second)

    module = module_of(body, {"b": ROW, "a": ROW}, {"z": ROW, "y": ROW})
    made = run(module, {"a": row(1, -2, 3, 4), "b": row(5, 5, 5, 5)}, tmp_path)
    assert made.keys() == {"z", "y"}
    assert np.array_equal(made["z"], row(4, 7, 2, 1)) and np.array_equal(made["y"], row(1, 0, 3, 4))


def test_a_composite_is_declared_by_name_at_the_begin_of_its_module(tmp_path: Path) -> None:
    attributes = {"num_groups": 2, "eps": 1e-5, "axes": [1, 2], "is_causal": False}

    def body(x: Value) -> Value:
        with at_begin_of_module():
            inner = graph(
                "inner",
                {"input": ROW},
                {"output": ROW.with_name("output")},
                authoring.relu,
                private=True,
                no_inline=True,
                composite_decl=composite_declaration("group_norm", ["input"], attributes),
            )
        return inner(x)[0]

    module = module_of(body, {"x": ROW}, {"y": ROW})
    text = str(module)
    assert text.index("@inner") < text.index("@main")
    assert "private noinline @inner" in text and "coreai.invoke @inner" in text
    assert 'composite_declaration<"group_norm" = {input_names = ["input"]' in text
    for name, value in (
        ("num_groups", "2 : si64"),
        ("axes", r"\[1 : si64, 2 : si64\]"),
        ("is_causal", "false"),
        ("version", "1 : si64"),
    ):
        assert re.search(rf"\b{name} = {value}", text), name
    (eps,) = re.findall(r"eps = (\S+) : f32", text)
    assert abs(float(eps) - 1e-5) < 1e-11
    assert np.array_equal(run(module, {"x": row(1, -2, 3, -4)}, tmp_path)["y"], row(1, 0, 3, 0))


def test_an_attribute_that_core_ai_cannot_read_is_an_error() -> None:
    with pytest.raises(TypeError, match="'text'"):
        composite_declaration("group_norm", ["input"], {"mode": "text"})


def test_composites_of_one_kind_share_a_graph() -> None:
    ops = CoreAIOps("sdpa", np.float32)
    wide, narrow = (TensorType((1, 6, width), np.float32) for width in (8, 4))

    def body(*values: Value) -> tuple[Value, ...]:
        a, b, c = map(Tensor, values)
        first = ops.attention(a, a, a, 2)
        return tuple(
            each.value for each in (ops.attention(first, b, b, 2), ops.attention(c, c, c, 2))
        )

    text = str(
        module_of(
            body,
            {"a": wide, "b": wide, "c": narrow},
            {"d": wide, "e": narrow},
        )
    )
    assert text.count("graph private") == 2
    assert text.count("coreai.invoke @scaled_dot_product_attention_1(") == 2
    assert text.count("coreai.invoke @scaled_dot_product_attention_2(") == 1


def test_a_state_is_replaced_in_its_own_memory(tmp_path: Path) -> None:
    def body(x: Value, total: Value) -> tuple[Value, Value]:
        summed = authoring.add(x, total)
        return authoring.relu(summed), summed

    module = module_of(body, {"x": ROW, "total": ROW}, {"y": ROW, "total": ROW}, "total")
    model, function = opened(module, tmp_path)
    assert function.desc.state_names == ["total"] and function.desc.input_names == ["x"]
    state, given = NDArray(row(0, 0, 0, 0)), {"x": NDArray(row(1, 2, -3, 4))}
    for times in (1, 2):
        made = asyncio.run(_call(function, given, {"total": state}))
        assert list(made) == ["y"]
        assert np.array_equal(view(state), times * row(1, 2, -3, 4))
    with pytest.raises(RuntimeError, match="total"):
        asyncio.run(_call(function, given, {}))
    del model, function, made
    gc.collect()


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("count", [8, 7])
def test_codes_of_less_than_a_byte_are_packed(bits: int, count: int, tmp_path: Path) -> None:
    """7 codes do not fill their last byte."""
    codes = np.random.default_rng(0).integers(0, 2**bits, (3, count), dtype=np.uint8)
    table = np.linspace(-1, 1, 2**bits).astype(np.float16)

    def body(x: Value) -> Value:
        lut = table.reshape(1, 1, -1, 1)
        dense = authoring.lut_to_dense(packed_constant(codes, bits), lut, np.int16(0))
        return authoring.broadcasting_add(authoring.cast(dense, np.float32), x)

    kind = TensorType((3, count), np.float32)
    made = run(
        module_of(body, {"x": kind}, {"y": kind}), {"x": np.zeros((3, count), np.float32)}, tmp_path
    )
    assert np.array_equal(made["y"], table[codes].astype(np.float32))


def test_a_view_is_no_copy_and_outlives_its_array(tmp_path: Path) -> None:
    array = NDArray(row(1, 2, 3, 4))
    seen, bytes_of = view(array), writable(array)
    assert seen.ctypes.data == bytes_of.ctypes.data
    assert seen.dtype == np.float32 and not seen.flags.writeable
    bytes_of.view(np.float32)[2] = 9
    assert np.array_equal(seen, row(1, 2, 9, 4)) and np.array_equal(array.numpy(), seen)
    del array, bytes_of
    gc.collect()
    assert np.array_equal(seen, row(1, 2, 9, 4))


def test_a_view_of_padded_rows_is_a_copy_of_them() -> None:
    """Rows of the framework may be padded; none is on Linux, so this array says that it is."""

    class Padded:
        shape, strides, dtype = (2, 3), (4, 1), np.float32

        def numpy(self) -> np.ndarray:
            return np.arange(6, dtype=np.float32).reshape(2, 3)

    assert np.array_equal(view(Padded()), [[0, 1, 2], [3, 4, 5]])  # type: ignore[arg-type]


def test_memory_to_write_into_keeps_its_array_alive() -> None:
    """Bug: an input that was replaced by a copy was freed, and written to all the same."""
    array = NDArray(row(1, 2, 3, 4))
    seen = writable(array)
    alive = weakref.ref(array)
    del array
    gc.collect()
    assert alive() is not None
    assert np.array_equal(seen.view(np.float32), row(1, 2, 3, 4)[0])
    del seen
    gc.collect()
    assert alive() is None


def test_what_is_written_into_an_input_is_what_the_next_call_reads(tmp_path: Path) -> None:
    module = module_of(authoring.relu, {"x": ROW}, {"y": ROW})
    model, function = opened(module, tmp_path)
    array = NDArray.from_descriptor(function.desc.input_descriptor("x"))
    seen = writable(array).view(np.float32).reshape(1, 4)
    for values in (row(1, -1, 2, 0), row(3, 4, -5, 6)):
        seen[...] = values
        made = asyncio.run(_call(function, {"x": array}, {}))
        assert np.array_equal(view(made["y"]), np.maximum(values, 0))
    del model, function, made
    gc.collect()


@pytest.mark.parametrize("compression", ["int8", "palettize8", "palettize4", "palettize2"])
def test_a_layer_computes_with_its_decompressed_weights(compression: str, tmp_path: Path) -> None:
    ops = CoreAIOps("sdpa", np.float16)
    values = np.random.default_rng(1).standard_normal((64, 192)).astype(np.float32)
    compressed = compress(values, values.astype(np.float16), compression)
    assert compressed is not None
    x = np.random.default_rng(2).standard_normal((1, 3, 192)).astype(np.float16)

    def body(given: Value) -> Value:
        return ops.project(Tensor(given), ops.decompress(compressed), None, "layer").value

    kinds = [TensorType(shape, np.float16) for shape in (x.shape, (1, 3, 64))]
    made = run(module_of(body, {"x": kinds[0]}, {"y": kinds[1]}), {"x": x}, tmp_path)["y"]
    wanted = x.astype(np.float32) @ compressed.rebuilt.astype(np.float32).T
    # this runtime sums products of float16 in float16: 2.2e-3 was seen
    assert np.linalg.norm(made - wanted) / np.linalg.norm(wanted) < 5e-3
    assert np.linalg.norm(made - x @ values.T) > 0


def test_products_sum_in_float16_and_convolutions_do_not(tmp_path: Path) -> None:
    """This runtime's: docs/coreai.md explains with it why the forms of attention differ."""
    ops, generator = CoreAIOps("sdpa", np.float16), np.random.default_rng(0)
    weights = generator.standard_normal((64, 1024)).astype(np.float16)
    x = generator.standard_normal((1, 1024, 1, 3)).astype(np.float16)

    def body(given: Value) -> tuple[Value, Value]:
        tokens = ops.transpose(ops.reshape(Tensor(given), (1, 1024, 3)), (0, 2, 1))
        product = ops.project(tokens, weights, None, "product")
        convolved = ops.convolve(
            Tensor(given), weights[:, :, None, None], None, (0,) * 4, "convolved"
        )
        return product.value, convolved.value

    kinds = [TensorType(shape, np.float16) for shape in (x.shape, (1, 3, 64), (1, 64, 1, 3))]
    made = run(module_of(body, {"x": kinds[0]}, {"y": kinds[1], "z": kinds[2]}), {"x": x}, tmp_path)
    exact = x[0, :, 0].astype(np.float64).T @ weights.T

    def error(found: np.ndarray) -> float:
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    assert error(made["z"][0, :, 0].T) < 3e-4 < 3e-3 < error(made["y"][0])
