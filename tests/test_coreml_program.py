"""The saved ML Programs: structure that no tolerance sees, and numbers against MLX."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sdxs.common.backend.schedule import one_step, seeded_noise
from sdxs.common.checkpoint.config.vae import KLVAEConfig
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.checkpoint.layout import unet_layout, vae_layout
from sdxs.common.errors import UsageError, WeightsError
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from sdxs.coreml_backend.interpreter.interpreter import Interpreter
from sdxs.coreml_backend.ops import MilOps, ct
from sdxs.coreml_backend.options import Variant
from sdxs.coreml_backend.program import (
    build,
    build_sizes,
    input_shapes,
    mil_program,
    read_metadata,
)
from sdxs.graphs import compression, weights
from sdxs.graphs.compression import cluster
from sdxs.mlx_sdxs.backend import load_vae, load_weights
from sdxs.mlx_sdxs.frame import Frame
from sdxs.mlx_sdxs.networks.unet import UNet2DConditionModel

SIZE = 64
ATTENTIONS = ("sdpa", "matmul", "split_einsum")
# checkpoint, its VAE folder: every published architecture, and the full VAE
CASES = [
    ("sdxs-512-0.9", "vae"),
    ("sdxs-512-dreamshaper", "vae"),
    ("sdxs-512-0.9", "vae_large"),
    ("sd-turbo", "vae"),
    ("tiny-sd", "vae"),
    ("small-sd", "vae"),
]
# Each form once; `make test-all` takes them all. test_coreml_parity compares with diffusers.
SHARE = [(*CASES[number], ATTENTIONS[number % 3]) for number in (0, 2, 4)]
GRID = [
    each if each in SHARE else pytest.param(*each, marks=pytest.mark.thorough)
    for each in [(*case, attention) for case in CASES for attention in ATTENTIONS]
]
Open = Callable[[str, str], Checkpoint]
Operation = ct.proto.MIL_pb2.Operation


class Saved:
    """A saved program's operations with what feeds them, read from the specification alone."""

    def __init__(self, path: Path, function: str = "main") -> None:
        self.path = path
        self.spec = ct.utils.load_spec(str(path))
        self.function = self.spec.mlProgram.functions[function]
        (self.block,) = self.function.block_specializations.values()
        self.producers = {output.name: op for op in self.block.operations for output in op.outputs}

    def of(self, kind: str) -> list[Operation]:
        return [op for op in self.block.operations if op.type == kind]

    def named(self, kind: str, suffix: str) -> list[Operation]:
        return [op for op in self.of(kind) if name_of(op).endswith(suffix)]

    def producer(self, op: Operation, key: str) -> Operation:
        return self.producers[op.inputs[key].arguments[0].name]

    def constant(self, op: Operation, key: str) -> float | str | list[int]:
        """A small constant operand, as Python has it."""
        value = self.producer(op, key).attributes["val"].immediateValue.tensor
        kind = value.WhichOneof("value")
        if kind == "bytes":
            return float(np.frombuffer(value.bytes.values, np.float16)[0])
        values = list(getattr(value, kind).values)
        return values[0] if kind in ("strings", "floats", "bools") else values

    def shape(self, op: Operation, key: str) -> tuple[int, ...]:
        (output,) = (
            o for o in self.producer(op, key).outputs if o.name == op.inputs[key].arguments[0].name
        )
        return tuple(d.constant.size for d in output.type.tensorType.dimensions)

    def dtype(self, op: Operation, key: str) -> str:
        (output,) = (
            o for o in self.producer(op, key).outputs if o.name == op.inputs[key].arguments[0].name
        )
        return ct.proto.MIL_pb2.DataType.Name(output.type.tensorType.dataType)

    @property
    def weight_bytes(self) -> int:
        return (self.path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size


def name_of(op: Operation) -> str:
    return op.attributes["name"].immediateValue.tensor.strings.values[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Tiny checkpoints by architecture, written once.

    Their tensors are float16 already: what is left between Core ML's program and MLX is then not
    the rounding of the weights.
    """
    folder = tmp_path_factory.mktemp("coreml")

    def open_one(name: str, vae_folder: str = "vae") -> Checkpoint:
        if not (folder / name).exists():
            write_checkpoint(folder / name, tiny(architecture(name)), dtype=np.float16)
        return open_checkpoint(folder / name, vae_folder=vae_folder)

    return open_one


@pytest.fixture(scope="module")
def saved(
    checkpoint: Open, build_once: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Saved]:
    """Built programs of tiny checkpoints, each built once."""
    folder, known = tmp_path_factory.mktemp("programs"), {}

    def build_one(variant: Variant, name: str = "sdxs-512-0.9", vae_folder: str = "vae") -> Saved:
        key = (variant, name, vae_folder)
        if key not in known:
            path = folder / f"{len(known)}.mlpackage"
            build_once(checkpoint(name, vae_folder), variant, path)
            known[key] = Saved(path)
        return known[key]

    return build_one


def arguments(given: Checkpoint, size: int) -> dict[str, np.ndarray]:
    """One set of inputs, latents as Core ML orders them."""
    generator, side = np.random.default_rng(0), size // 8
    latents = (1, given.vae.latent_channels, side, side)
    return {
        "picture": generator.integers(0, 256, (1, 3, size, size)).astype(np.float32),
        "encoder_hidden_states": generator.standard_normal(
            (1, 77, given.unet.cross_attention_dim), dtype=np.float32
        ),
        "noise": np.ascontiguousarray(
            seeded_noise(1, side, side, latents[1]).transpose(0, 3, 1, 2)
        ),
        "previous": generator.standard_normal(latents, dtype=np.float32),
        "feedback": np.array([0.3], np.float32),
    }


def mlx_frame(given: Checkpoint, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The same frame by MLX in float32: picture (1, 3, S, S) and x0 (1, C, S/8, S/8)."""
    unet = UNet2DConditionModel(given.unet)
    load_weights(unet, given.unet_weights, mx.float32)
    vae = load_vae(given.vae, given.vae_weights, mx.float32)
    frame = Frame(
        unet, vae, (one_step(given.scheduler, given.frame),), given.vae.scaling_factor, mx.float32
    )
    last = {
        name: value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
        for name, value in inputs.items()
    }
    picture, x0, _ = frame(
        mx.array(last["picture"][0].astype(np.uint8)),
        mx.array(last["encoder_hidden_states"]),
        mx.array(last["noise"]),
        mx.array(last["previous"]),
        mx.array(last["feedback"][0]),
    )
    return np.array(picture, np.float32).transpose(2, 0, 1)[None], np.array(x0).transpose(
        0, 3, 1, 2
    )


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(float(np.mean(np.square(found - expected))), 1e-9))


# Numbers


@pytest.mark.parametrize(("name", "vae_folder", "attention"), GRID)
def test_the_program_computes_what_mlx_computes(
    saved: Callable[..., Saved], checkpoint: Open, name: str, vae_folder: str, attention: str
) -> None:
    given = checkpoint(name, vae_folder)
    program = saved(Variant(SIZE, attention, "float32"), name, vae_folder)
    inputs = arguments(given, SIZE)
    picture, x0 = mlx_frame(given, inputs)
    exact = Interpreter(program.path).predict(inputs)
    # what remains is float16 constants: biases with the time embedding in them, eps, and weights
    # with a LayerNorm folded into them; measured 1e-4 to 2.1e-4, without the last 2e-5 to 5e-5
    assert distance(exact["x0"], x0) < 4e-4
    assert psnr(exact["image"], picture) > 60
    # every result rounded to float16, as Core ML stores it; measured 7e-4 to 1.2e-3 and 51.8 dB or
    # more
    rounded = Interpreter(program.path, round_float16=True).predict(inputs)
    assert distance(rounded["x0"], x0) < 5e-3
    assert psnr(rounded["image"], picture) > 50


def test_the_demo_renders_what_mlx_renders(tmp_path: Path, demo: Checkpoint) -> None:
    build(demo, Variant(128, input="float32"), tmp_path / "demo.mlpackage")
    inputs = arguments(demo, 128)
    picture, x0 = mlx_frame(demo, inputs)
    assert demo.frame.noise_scale == 0  # the other half of the frame's arithmetic
    found = Interpreter(tmp_path / "demo.mlpackage").predict(inputs)
    assert distance(found["x0"], x0) < 2e-4
    assert psnr(found["image"], picture) > 60


def test_stages_in_a_row_are_the_frame(saved: Callable[..., Saved], checkpoint: Open) -> None:
    inputs = arguments(checkpoint("sdxs-512-0.9"), SIZE)
    encode, unet, decode, frame = (
        Interpreter(saved(Variant(SIZE, input="float32", stage=stage)).path)
        for stage in ("encode", "unet", "decode", "frame")
    )
    whole = frame.predict(dict(inputs))
    latents = encode.predict({"picture": inputs.pop("picture")})["latents"]
    x0 = unet.predict({**inputs, "latents": latents})["x0"]
    np.testing.assert_array_equal(x0, whole["x0"])
    np.testing.assert_array_equal(decode.predict({"x0": x0})["image"], whole["image"])


def test_built_in_noise_is_the_seeded_noise(saved: Callable[..., Saved], checkpoint: Open) -> None:
    inputs = arguments(checkpoint("sdxs-512-0.9"), SIZE)  # noise of seed 1
    given = Interpreter(saved(Variant(SIZE, input="float32")).path).predict(dict(inputs))
    del inputs["noise"]
    built_in = Interpreter(saved(Variant(SIZE, input="float32", noise_seed=1)).path).predict(inputs)
    np.testing.assert_array_equal(built_in["x0"], given["x0"])


@pytest.mark.parametrize(("name", "vae_folder"), CASES)
def test_every_tensor_of_the_checkpoint_reaches_the_program(
    checkpoint: Open, name: str, vae_folder: str
) -> None:
    given = checkpoint(name, vae_folder)
    _, (unet, vae) = mil_program(given, Variant(SIZE))
    assert unet.read == set(unet_layout(given.unet))
    assert vae.read == set(vae_layout(given.vae))


# Structure


@pytest.mark.parametrize(("name", "vae_folder", "attention"), GRID)
def test_norms_gelu_padding_and_strides(
    saved: Callable[..., Saved], checkpoint: Open, name: str, vae_folder: str, attention: str
) -> None:
    given, program = (
        checkpoint(name, vae_folder),
        saved(Variant(SIZE, attention, "float32"), name, vae_folder),
    )
    full_vae = isinstance(given.vae, KLVAEConfig)
    counts = {"group": 0, "layer": 0}
    for op in program.of("layer_norm"):
        eps, label = program.constant(op, "epsilon"), name_of(op)
        if "transformer_blocks" in label:
            counts["layer"] += 1
            assert eps == np.float16(1e-5), label
            assert program.constant(op, "axes") == [1 if attention == "split_einsum" else 2], label
        else:
            counts["group"] += 1
            from_vae = full_vae and label.startswith(("encoder", "decoder"))
            tight = label.endswith("_norm") and "attentions" in label and not from_vae
            assert eps == np.float16(1e-6 if tight or from_vae else given.unet.norm_eps), label
            assert program.constant(op, "axes") == [1, 2, 3], label
            assert program.shape(op, "x")[0] == given.unet.norm_num_groups, label
    layout = [*unet_layout(given.unet), *(vae_layout(given.vae) if full_vae else ())]
    assert counts["group"] + counts["layer"] == sum(
        key.endswith("weight") and "norm" in key for key in layout
    )
    assert counts["layer"] == sum(
        key.endswith("weight") and "transformer_blocks" in key and "norm" in key for key in layout
    )
    assert all(program.constant(op, "epsilon") == 0 for op in program.of("batch_norm"))
    assert len(program.of("batch_norm")) == counts["group"]
    assert {program.constant(op, "mode") for op in program.of("gelu")} == {"EXACT"}
    for op in program.of("conv"):
        label, kernel = name_of(op), program.shape(op, "weight")[-1]
        stride, pad = program.constant(op, "strides"), program.constant(op, "pad")
        bottom_right = full_vae and label.startswith("encoder") and "downsamplers" in label
        assert program.constant(op, "pad_type") == "custom", label
        assert pad == ([0, 1, 0, 1] if bottom_right else [kernel // 2] * 4), label
        down = "downsamplers" in label or (
            label.startswith("encoder_layers") and "bias" not in op.inputs
        )
        assert stride == ([2, 2] if down else [1, 1]), label


@pytest.mark.parametrize(("name", "vae_folder", "attention"), GRID)
def test_heads_and_scale(
    saved: Callable[..., Saved], checkpoint: Open, name: str, vae_folder: str, attention: str
) -> None:
    given, program = (
        checkpoint(name, vae_folder),
        saved(Variant(SIZE, attention, "float32"), name, vae_folder),
    )
    config = given.unet
    found = sorted(heads_of(program, attention))
    expected = []
    for key, shape in unet_layout(config).items():
        if key.endswith("to_q.weight"):
            heads = config.heads[config.block_out_channels.index(shape[0])]
            expected.append((heads, shape[0] // heads))
    if isinstance(given.vae, KLVAEConfig):
        expected += [(1, given.vae.block_out_channels[-1])] * 2
    assert found == sorted(expected)


def heads_of(program: Saved, attention: str) -> Iterator[tuple[int, int]]:
    """(heads, head_dim) of every attention; asserts that what scales is head_dim ** -0.5."""
    if attention == "sdpa":  # the operation scales by itself
        for op in program.of("scaled_dot_product_attention"):
            assert "attn_mask" not in op.inputs
            _, heads, _, head_dim = program.shape(op, "query")
            yield heads, head_dim
    for softmax in program.of("softmax"):  # under sdpa, of the full VAE
        product = program.producer(softmax, "x")
        if attention != "split_einsum":
            assert program.constant(softmax, "axis") in (-1, [-1], [3])
            assert program.constant(product, "transpose_y")
            _, heads, _, head_dim = program.shape(product, "x")
            scale = program.producer(product, "x")
            while scale.type != "mul":  # coremltools may move it across the transpose
                scale = program.producer(scale, "x")
            assert program.constant(scale, "y") == np.float16(head_dim**-0.5)
            yield heads, head_dim
        else:
            assert program.constant(softmax, "axis") == [1]
            query = program.producers[product.inputs["values"].arguments[1].name]
            scale, heads = (
                (program.producer(query, "x"), len(query.outputs))
                if query.type == "split"
                else (query, 1)
            )
            head_dim = program.shape(scale, "x")[1] // heads
            assert program.constant(scale, "y") == np.float16(head_dim**-0.5)
            if (
                query.type != "split"
                or query.outputs[0].name == product.inputs["values"].arguments[1].name
            ):
                yield heads, head_dim


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_networks_are_float16_and_the_arithmetic_between_them_is_float32(
    saved: Callable[..., Saved], attention: str
) -> None:
    program = saved(Variant(SIZE, attention, "float32"))
    for kind in (
        "conv",
        "linear",
        "layer_norm",
        "batch_norm",
        "silu",
        "gelu",
        "softmax",
        "scaled_dot_product_attention",
    ):
        assert {
            program.dtype(op, next(k for k in ("x", "query") if k in op.inputs))
            for op in program.of(kind)
        } <= {"FLOAT16"}
    for kind in ("conv", "linear"):
        assert {program.dtype(op, "weight") for op in program.of(kind)} <= {"FLOAT16"}
    x0 = program.producers["x0"]
    assert (x0.type, program.dtype(x0, "x"), program.dtype(x0, "y")) == (
        "add",
        "FLOAT32",
        "FLOAT32",
    )
    # x0 = z + r (n - eps): one convolution subtracts, its result is scaled after the cast
    scaled = program.producer(x0, "y")
    assert program.constant(scaled, "y") == pytest.approx(14.61, abs=0.01)
    (last,) = program.named("conv", "conv_out")
    cast = program.producer(scaled, "x")
    assert (cast.type, program.producer(cast, "x")) == ("cast", last)
    assert program.shape(last, "weight") == (4, 32 + 4, 3, 3)


@pytest.mark.parametrize(
    ("attention", "opset", "version"),
    [("sdpa", "CoreML8", 9), ("matmul", "CoreML7", 8), ("split_einsum", "CoreML7", 8)],
)
def test_the_oldest_system_that_runs_it(
    saved: Callable[..., Saved], attention: str, opset: str, version: int
) -> None:
    program = saved(Variant(SIZE, attention, "float32"))
    assert (program.function.opset, program.spec.specificationVersion) == (opset, version)
    assert bool(program.of("scaled_dot_product_attention")) == (attention == "sdpa")
    assert bool(program.of("einsum")) == (attention == "split_einsum")


@pytest.mark.parametrize(
    ("stage", "inputs", "outputs"),
    [
        (
            "frame",
            ["picture", "encoder_hidden_states", "noise", "previous", "feedback"],
            ["image", "image_mean", "x0"],
        ),
        ("encode", ["picture"], ["latents"]),
        ("unet", ["latents", "encoder_hidden_states", "noise", "previous", "feedback"], ["x0"]),
        ("decode", ["x0"], ["image", "image_mean"]),
    ],
)
@pytest.mark.parametrize("pictures", ["image", "float32"])
def test_inputs_and_outputs(
    saved: Callable[..., Saved],
    checkpoint: Open,
    stage: str,
    inputs: list[str],
    outputs: list[str],
    pictures: str,
) -> None:
    variant = Variant(SIZE, input=pictures, stage=stage)
    description = saved(variant).spec.description
    assert [f.name for f in description.input] == inputs
    assert [f.name for f in description.output] == outputs
    shapes = input_shapes(checkpoint("sdxs-512-0.9"), variant) | {
        "image": (1, 3, SIZE, SIZE),
        "image_mean": (1, 1, 1, 1),
        "x0": (1, 4, 8, 8),
        "latents": (1, 4, 8, 8),
    }
    for feature in [*description.input, *description.output]:
        if feature.name in ("picture", "image") and pictures == "image":
            image = feature.type.imageType
            assert (image.width, image.height) == (SIZE, SIZE)
            assert image.colorSpace == ct.proto.FeatureTypes_pb2.ImageFeatureType.RGB
        else:
            array = feature.type.multiArrayType
            assert tuple(array.shape) == shapes[feature.name]
            assert array.dataType == ct.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32


def test_metadata_says_what_was_built(saved: Callable[..., Saved], checkpoint: Open) -> None:
    variant = Variant(SIZE, "matmul", "float32")
    metadata = read_metadata(saved(variant).path)
    assert json.loads(metadata["variant"]) == {
        "size": SIZE,
        "attention": "matmul",
        "input": "float32",
        "weights": "float16",
        "stage": "frame",
        "noise_seed": None,
    }
    assert metadata["version"]
    assert len(metadata["unet_sha256"]) == len(metadata["vae_sha256"]) == 64
    assert "weights_relative_error" not in metadata


# Compression


# Lloyd and Max on normal weights: 0.098, 0.34; a uniform 8-bit grid of one channel about 0.007
MOST = {
    "float16": 0.0,
    "int8": 0.01,
    "palettize8": 0.01,
    "palettize6": 0.03,
    "palettize4": 0.1,
    "palettize2": 0.35,
}


@pytest.mark.parametrize(
    ("attention", "kinds"),
    [
        ("sdpa", ("float16", "int8", "palettize4")),
        pytest.param("sdpa", tuple(MOST), marks=pytest.mark.thorough),
        pytest.param("matmul", ("float16", "int8", "palettize4"), marks=pytest.mark.slow),
        pytest.param("matmul", tuple(MOST), marks=pytest.mark.thorough),
    ],
)
def test_compression_trades_bytes_for_error(
    saved: Callable[..., Saved], checkpoint: Open, attention: str, kinds: tuple[str, ...]
) -> None:
    """macOS 15 and macOS 14 spell the same compression in different operations."""
    given = checkpoint("sdxs-512-0.9")
    inputs = arguments(given, SIZE)
    _, x0 = mlx_frame(given, inputs)
    sizes, errors = [], []
    for stored in kinds:
        program = saved(Variant(SIZE, attention, "float32", stored))
        error = float(read_metadata(program.path).get("weights_relative_error", 0))
        assert error <= MOST[stored], stored
        # the picture's error follows the weights': a wrong table or scale would give 1 or more
        found = Interpreter(program.path).predict(inputs)["x0"]
        assert distance(found, x0) < 2e-4 + 3 * error, stored
        sizes.append(program.weight_bytes)
        errors.append(error)
    # palettes of fewer bits take fewer bytes and lose more; int8 is less than float16
    assert sizes[0] > sizes[1] and sizes[2:] == sorted(sizes[2:], reverse=True)
    assert sizes[1] > sizes[-1] and errors[-1] > 10 * errors[1] > 0 == errors[0]
    assert errors[2:] == sorted(errors[2:])


def test_small_tensors_and_the_subtracting_convolution_stay_float16(
    saved: Callable[..., Saved],
) -> None:
    program = saved(Variant(SIZE, input="float32", weights="palettize4"))
    compressed = [
        op
        for kind in ("conv", "linear")
        for op in program.of(kind)
        if program.producer(op, "weight").type.startswith("constexpr_")
    ]
    assert compressed
    assert all(
        math.prod(program.shape(op, "weight")) > compression.COMPRESSION_THRESHOLD
        for op in compressed
    )
    assert not any(name_of(op).endswith("conv_out") for op in compressed)


def test_cluster_finds_the_values_there_are() -> None:
    values = np.array([[-2.0, 0.5], [0.5, 65504.0]] * 50, np.float16)
    table, indices = cluster(values, 4)
    np.testing.assert_array_equal(table[indices], values)
    assert indices.dtype == np.uint8 and (np.diff(table) >= 0).all()
    # an outlier does not cost the rest its table
    values = np.append(np.random.default_rng(0).standard_normal(20_000), 60_000).astype(np.float16)
    table, indices = cluster(values, 16)
    assert distance(table[indices][:-1].astype(np.float64), values[:-1].astype(np.float64)) < 0.12
    same, indices = cluster(np.full(100, 0.25, np.float16), 4)
    np.testing.assert_array_equal(same[indices], 0.25)


# Several sizes, errors, silence


def test_sizes_share_one_set_of_weights(
    saved: Callable[..., Saved], checkpoint: Open, tmp_path: Path
) -> None:
    given, path = checkpoint("sdxs-512-0.9"), tmp_path / "sizes.mlpackage"
    steps: list[tuple[str, float]] = []
    build_sizes(
        given, Variant(SIZE, input="float32"), [SIZE, 96], path, lambda *step: steps.append(step)
    )
    single = saved(Variant(SIZE, input="float32"))
    assert Saved(path, "size_64").weight_bytes < 1.01 * single.weight_bytes
    assert single.spec.description.output  # one function describes itself at the top
    assert json.loads(read_metadata(path)["sizes"]) == [SIZE, 96]
    for size in (SIZE, 96):
        inputs = arguments(given, size)
        _, x0 = mlx_frame(given, inputs)
        assert distance(Interpreter(path, function=f"size_{size}").predict(inputs)["x0"], x0) < 2e-4
    shares = [done for _, done in steps]
    assert shares == sorted(shares) and shares[-1] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sizes.mlpackage"]


@pytest.mark.parametrize(
    "wrong",
    [{"attention": "flash"}, {"input": "uint8"}, {"weights": "int4"}, {"stage": "text"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_variant_that_does_not_exist_is_refused(wrong: dict[str, str]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"{name} .*expected one of"):
        Variant(SIZE, **wrong)


def test_a_size_that_cannot_be_is_refused(checkpoint: Open, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of 32"):
        build(checkpoint("sdxs-512-0.9"), Variant(60), tmp_path / "no.mlpackage")
    assert not list(tmp_path.iterdir())


def test_weights_beyond_float16_are_refused() -> None:
    with pytest.raises(WeightsError, match="float16 cannot"):
        MilOps("sdpa").rounded(np.array([1e6], np.float32), "unet.conv_in")


def test_bfloat16_weights_are_read_exactly(tmp_path: Path) -> None:
    header = json.dumps(
        {"conv_in.bias": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}
    ).encode()
    path = tmp_path / "bfloat16.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x81\x3f")
    with weights.Store(path) as store:
        bias = store.tensor("conv_in.bias")
    assert bias.dtype == np.float32 and bias.tolist() == [1 + 2**-7]


def test_importing_the_package_is_cheap_and_silent() -> None:
    code = (
        "import sys, sdxs.coreml_backend; assert 'coremltools' not in sys.modules; import "
        "sdxs.coreml_backend.program"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_building_is_silent(
    checkpoint: Open, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build(checkpoint("sdxs-512-0.9"), Variant(SIZE), tmp_path / "quiet.mlpackage")
    assert capfd.readouterr() == ("", "")
