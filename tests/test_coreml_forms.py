"""The form of a program follows its compute unit, and keeps to what the unit takes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest

from fake_coreml import StrictModel
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.errors import BackendError, SdxsWarning, UsageError
from sdxs.common.picture.temporal import psnr
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from sdxs.coreml_backend import prepare
from sdxs.coreml_backend.interpreter.interpreter import Interpreter
from sdxs.coreml_backend.ops import MilOps, Var, types
from sdxs.coreml_backend.options import CoreMLOptions, parse_placement
from sdxs.coreml_backend.program import Variant, mil_program
from sdxs.coreml_backend.single_function import write_program
from sdxs.coreml_backend.stages import StagesBackend
from sdxs.experiments.parity.control import tiny_controlled

SIZE = 64
Operation = ct.converters.mil.mil.Operation


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path))


@pytest.fixture(scope="module")
def full_vae(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = write_checkpoint(tmp_path_factory.mktemp("full"), tiny(architecture("sdxs-512-0.9")))
    return open_checkpoint(folder, vae_folder="vae_large")


def operations(
    checkpoint: Checkpoint, *chosen: object, **more: object
) -> list[ct.converters.mil.Operation]:
    program, _ = mil_program(checkpoint, Variant(SIZE, *chosen, **more))  # type: ignore[arg-type]
    return list(program.functions["main"].operations)


def kinds(checkpoint: Checkpoint, *chosen: object, **more: object) -> list[str]:
    return [op.op_type for op in operations(checkpoint, *chosen, **more)]


# By compute unit


@pytest.mark.parametrize(
    ("chosen", "forms"),
    [
        ({}, ["sdpa"]),
        ({"compute_units": "cpu_and_gpu"}, ["sdpa"]),
        ({"compute_units": "all"}, ["sdpa"]),
        ({"compute_units": "cpu_and_ne"}, ["split_einsum"]),
        ({"compute_units": "cpu_only"}, ["matmul"]),
        ({"runtime": "reference"}, ["sdpa"]),
        ({"compute_units": "cpu_only", "attention": "sdpa"}, ["sdpa"]),
        ({"compute_units": "cpu_and_ne", "attention": "matmul"}, ["matmul"]),
        ({"placement": "encode=ne,unet=gpu,decode=cpu"}, ["split_einsum", "sdpa", "matmul"]),
        ({"placement": "encode=ne,unet=gpu,decode=cpu", "attention": "sdpa"}, ["sdpa"] * 3),
    ],
)
def test_the_form_of_the_attention_is_the_units_unless_chosen(
    chosen: dict[str, str], forms: list[str]
) -> None:
    """Bug: sdpa everywhere, though the Neural Engine has none and the CPU's crashes."""
    given: dict[str, object] = dict(chosen)
    if "placement" in chosen:
        given["placement"] = parse_placement(chosen["placement"])
    options = CoreMLOptions(SIZE, **given)  # type: ignore[arg-type]
    assert [options.variant(stage).attention for stage in options.stages] == forms
    said = forms[0] if len(set(forms)) == 1 else "+".join(forms)
    assert options.identity()["attention"] == said
    assert ("attention", said) in StagesBackend(None, options).describe().facts  # type: ignore[arg-type]


def test_programs_of_another_form_are_other_programs() -> None:
    def key(**chosen: object) -> dict[str, str]:
        return CoreMLOptions(SIZE, **chosen).identity()  # type: ignore[arg-type]

    assert key() == key(compute_units="all") == key(attention="sdpa")
    assert len({str(key(compute_units=unit)) for unit in (None, "cpu_only", "cpu_and_ne")}) == 3
    assert key(compute_units="cpu_only") == key(attention="matmul")


def test_on_macos_14_a_unit_without_sdpa_needs_no_option(
    on_macos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "macos_major", lambda: 14)
    prepare.refuse_without_runtime(CoreMLOptions(SIZE, compute_units="cpu_and_ne"))
    with pytest.raises(UsageError, match="sdpa needs macOS 15.*--attention matmul"):
        prepare.refuse_without_runtime(CoreMLOptions(SIZE))


def test_the_full_vaes_wide_head_is_never_sdpa(full_vae: Checkpoint) -> None:
    found = kinds(full_vae, "sdpa", "float32")
    assert found.count("softmax") == 2  # encoder and decoder
    assert found.count("scaled_dot_product_attention") == kinds(
        full_vae, "sdpa", "float32", stage="unet"
    ).count("scaled_dot_product_attention")
    for stage in ("encode", "decode"):
        assert "scaled_dot_product_attention" not in kinds(full_vae, "sdpa", stage=stage)


# Scores that float16 cannot hold


@pytest.fixture
def attend(tmp_path: Path) -> Callable[[str], Interpreter]:
    """A program of one attention over 8 tokens of 64 channels, as the networks build it."""

    def program(form: str) -> Interpreter:
        shape = (1, 64, 1, 8) if form == "split_einsum" else (1, 8, 64)
        path = tmp_path / f"{form}.mlpackage"
        write_program(
            path,
            dict.fromkeys("qkv", shape),
            lambda x: MilOps(form).attention(x["q"], x["k"], x["v"], heads=1),  # type: ignore[arg-type]
            ct.target.iOS18,
        )
        return Interpreter(path, round_float16=True)

    return program


@pytest.mark.parametrize("form", ["sdpa", "matmul", "split_einsum"])
def test_scores_over_float16_are_flagged_where_they_are_not_scaled_first(
    attend: Callable[[str], Interpreter], form: str, recwarn: pytest.WarningsRecorder
) -> None:
    """|q k| is 1e5 and, scaled by 1/8, well within float16."""
    program = attend(form)
    generator = np.random.default_rng(0)
    shape = program.inputs["q"].shape
    given = {name: np.full(shape, 39.6, np.float32) for name in "qk"}
    given["v"] = generator.standard_normal(shape).astype(np.float32)
    for _ in range(2):
        program.predict(given)
    (largest,) = program.largest_scores.values()
    said = [str(each.message) for each in recwarn if each.category is SdxsWarning]
    if form == "sdpa":
        assert largest == pytest.approx(1.0e5, rel=0.01)
        (line,) = said  # once, not in every frame
        assert "more than float16 holds (65504)" in line and "--attention matmul" in line
    else:
        assert largest == pytest.approx(1.25e4, rel=0.01) and said == []


# What a program holds


@pytest.mark.parametrize("attention", ["sdpa", "split_einsum"])
def test_the_weight_and_bias_of_a_layer_norm_are_folded_into_what_follows(
    tiny_sdxs: Checkpoint, attention: str
) -> None:
    """That the whole equals diffusers is `test_coreml_parity`'s: its norms are not 1 and 0."""
    from safetensors.numpy import load_file

    tensors = load_file(tiny_sdxs.unet_weights)
    found = {op.name: op for op in operations(tiny_sdxs, attention, "float32")}
    norms = [op for op in found.values() if op.op_type == "layer_norm"]
    assert norms and all(op.inputs.get("gamma") is None for op in norms)
    checked = 0
    for name in tensors:
        if not name.endswith("norm1.weight") or "transformer_blocks" not in name:
            continue
        block = name.removesuffix(".norm1.weight")
        gamma, beta = (
            tensors[f"{block}.norm1.{part}"].astype(np.float32) for part in ("weight", "bias")
        )
        assert np.ptp(gamma) > 0 and np.ptp(beta) > 0
        kernel = tensors[f"{block}.attn1.to_q.weight"]
        op = found[f"{block}.attn1.to_q".replace(".", "_")]
        stored = op.inputs["weight"].val.reshape(kernel.shape)
        assert np.array_equal(stored, (kernel * gamma).astype(np.float16))
        assert np.array_equal(op.inputs["bias"].val, (kernel @ beta).astype(np.float16))
        checked += 1
    assert checked >= 2


def test_the_edges_enter_a_controlnet_once(tmp_path: Path) -> None:
    checkpoint = tiny_controlled(tmp_path, "sdxs-512-dreamshaper")
    found = operations(checkpoint, "sdpa", "float32", stage="controlled")
    (first,) = (op for op in found if op.name == "control_controlnet_cond_embedding_conv_in")
    assert first.inputs["weight"].shape[1] == first.inputs["x"].shape[1] == 1


def single(found: list[Operation]) -> Iterator[Var]:
    """What is computed in float32, but for casts."""
    for op in found:
        if op.op_type not in ("const", "cast"):
            yield from (var for var in op.outputs if var.dtype == types.fp32)


def test_the_neural_engine_gets_pictures_without_float32(
    demo: Checkpoint, full_vae: Checkpoint
) -> None:
    """Bug: float32 never runs there, so each program began and ended on the CPU."""
    for checkpoint in (demo, full_vae):
        for stage in ("encode", "decode"):
            assert not list(single(operations(checkpoint, "split_einsum", stage=stage)))
            assert list(single(operations(checkpoint, "matmul", stage=stage)))
    pictures = []
    frame = np.kron(
        np.random.default_rng(0).integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))
    ).astype(np.uint8)
    for attention in ("matmul", "split_einsum"):
        options = CoreMLOptions(
            SIZE,
            runtime="reference",
            attention=attention,  # type: ignore[arg-type]
            placement=parse_placement("encode=ne,unet=ne,decode=ne"),
        )
        backend = StagesBackend(demo, options)
        backend.load()
        backend.submit(frame)
        pictures.append(np.empty_like(frame))
        backend.collect(pictures[-1])
        backend.close()
    assert psnr(*pictures) > 50 and np.abs(np.subtract(*pictures, dtype=int)).max() <= 2


# An overflow behind x0


def test_the_mean_of_the_picture_shows_what_is_not_finite(demo: Checkpoint, tmp_path: Path) -> None:
    from sdxs.coreml_backend.program import build

    for attention in ("matmul", "split_einsum"):
        path = tmp_path / f"{attention}.mlpackage"
        build(demo, Variant(SIZE, attention, "float32", stage="decode"), path)  # type: ignore[arg-type]
        exact = Interpreter(path)
        x0 = np.random.default_rng(0).standard_normal(exact.inputs["x0"].shape).astype(np.float32)
        made = exact.predict({"x0": x0})
        assert made["image_mean"].reshape(()) == pytest.approx(
            made["image"].mean() / 127.5 - 1,
            abs=0.1,  # the clipped ends
        )
        x0[0, 0, 3, 3] = np.nan
        with np.errstate(invalid="ignore"):
            assert np.isnan(exact.predict({"x0": x0})["image_mean"]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_picture_that_overflows_is_an_error_and_not_a_black_one(
    demo: Checkpoint, on_macos: list[str], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Bug: only x0 was looked at, and NaN became black."""
    right = StrictModel.predict

    def overflowed(self: StrictModel, data: dict[str, object]) -> dict[str, object]:
        return right(self, data) | {"image_mean": np.full((1, 1, 1, 1), value, np.float32)}

    monkeypatch.setattr(StrictModel, "predict", overflowed)
    backend = StagesBackend(demo, CoreMLOptions(SIZE))
    with pytest.raises(BackendError, match="overflowed in the decoder"):
        backend.load()
    backend.close()
