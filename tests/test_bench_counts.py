"""Work counted two ways, against known figures and by hand; stages, peaks, and the roofline."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.bench.measure.instrument import Peaks, StageCost
from sdxs.common.bench.model.roofline import roofline
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from sdxs.coreml_backend.backend import CoreMLBackend
from sdxs.coreml_backend.instrument import (
    PRODUCT_INPUT,
    CoreMLInstrument,
    copy_input,
    copy_pattern,
    open_model,
    product_arrays,
    write_copy,
    write_product,
)
from sdxs.coreml_backend.options import CoreMLOptions
from sdxs.graphs.ops import AttentionForm
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.instrument import MlxInstrument
from sdxs.mlx_sdxs.options import MlxOptions

NAMES = ("sdxs-512-0.9", "sdxs-512-dreamshaper", "sd-turbo", "tiny-sd", "small-sd")
STAGES = ["encode", "unet", "decode"]


def configs_only(folder: Path, name: str) -> Checkpoint:
    """A full-size checkpoint without its weights: counting needs none."""
    for part, config in architecture(name).items():
        (folder / part).mkdir(parents=True)
        (
            folder / part / f"{'scheduler_config' if part == 'scheduler' else 'config'}.json"
        ).write_text(json.dumps(config))
    return open_checkpoint(folder, name)


@pytest.mark.parametrize(
    ("name", "gflop"),
    [("sdxs-512-0.9", (122, 418, 141)), ("sdxs-512-dreamshaper", (122, 369, 141))],
)
def test_full_size_counts_equal_those_measured_through_torch(
    name: str, gflop: tuple[int, ...], tmp_path: Path
) -> None:
    """Figures of PyTorch's FlopCounterMode on diffusers' models at 512, to the GFLOP."""
    costs = MlxInstrument().count(configs_only(tmp_path, name), 512)
    assert [cost.stage for cost in costs] == STAGES
    assert [round(cost.flops / 1e9) for cost in costs] == list(gflop)


def test_weights_counted_are_the_layers_of_the_file(tmp_path: Path) -> None:
    """All but norms and the time embedding's second use: 328.09 of 328.18 million."""
    unet = MlxInstrument().count(configs_only(tmp_path, "sdxs-512-0.9"), 512)[1]
    assert 328.0e6 < unet.weights < 328.18e6


@pytest.mark.parametrize("name", NAMES)
def test_mlx_by_module_and_core_ml_by_operation_agree_within_two_percent(
    name: str, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path, tiny(architecture(name))), name)
    pairs = list(
        zip(
            MlxInstrument().count(checkpoint, 128),
            CoreMLInstrument().count(checkpoint, 128),
            strict=True,
        )
    )
    for mlx, coreml in pairs:
        assert coreml.stage == mlx.stage and coreml.flops == pytest.approx(mlx.flops, rel=0.02)
        assert coreml.activations == pytest.approx(mlx.activations, rel=0.05)
        # Core ML has folded the time projections away.
        assert coreml.weights == pytest.approx(mlx.weights, rel=0.05)


@pytest.mark.parametrize("form", ["matmul", "split_einsum"])
def test_another_form_of_attention_is_the_same_arithmetic(
    form: AttentionForm, tiny_sdxs: Checkpoint
) -> None:
    plain, other = (
        CoreMLInstrument().count(tiny_sdxs, 64),
        CoreMLInstrument().count(tiny_sdxs, 64, form),
    )
    assert [cost.flops for cost in other] == pytest.approx([cost.flops for cost in plain], rel=1e-6)
    assert other[1].activations > plain[1].activations  # the scores are written out


def test_a_convolution_counted_by_hand(demo: Checkpoint) -> None:
    """The demo's encoder at 64: its first convolution is 3 to 16 channels, 3 x 3, at 64 x 64."""
    small, large = (MlxInstrument().count(demo, size)[0] for size in (64, 128))
    # All convolutions: four times the pixels.
    assert large.flops == 4 * small.flops and large.weights == small.weights
    width = demo.vae.encoder_block_out_channels[0]
    first = 2 * 64 * 64 * width * 3 * 9
    assert small.flops > first and (small.flops - first) % (2 * 9 * width) == 0


def test_counting_leaves_mlx_as_it_was(demo: Checkpoint) -> None:
    import mlx.nn as nn

    before = (nn.Conv2d.__call__, nn.Linear.__call__)
    MlxInstrument().count(demo, 64)
    assert (nn.Conv2d.__call__, nn.Linear.__call__) == before


def test_a_size_that_cannot_be_is_refused_by_both(demo: Checkpoint) -> None:
    for instrument in (MlxInstrument(), CoreMLInstrument()):
        with pytest.raises(UsageError, match="multiple of"):
            instrument.count(demo, 100)


def test_stages_of_mlx_add_up_to_its_frame(tiny_sdxs: Checkpoint) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(64))
    backend.load()
    try:
        stages = MlxInstrument().profile(backend, np.zeros((64, 64, 3), np.uint8), 3)
    finally:
        backend.close()
    assert list(stages) == ["in", *STAGES, "out"]
    assert all(len(times) == 3 and min(times) > 0 for times in stages.values())
    with pytest.raises(BackendError, match="only a loaded MLX backend"):
        MlxInstrument().profile(backend, np.zeros((64, 64, 3), np.uint8), 1)
    with pytest.raises(BackendError, match="only a loaded MLX backend"):
        MlxInstrument().profile(
            IdentityBackend(None, BackendOptions(64)), np.zeros((64, 64, 3), np.uint8), 1
        )


def test_stage_programs_of_core_ml_run_in_a_row(tiny_sdxs: Checkpoint) -> None:
    """The interpreter's times mean nothing; the test shows that they fit each other."""
    backend = CoreMLBackend(tiny_sdxs, CoreMLOptions(64, runtime="reference"))
    stages = CoreMLInstrument().profile(backend, np.zeros((64, 64, 3), np.uint8), 1)
    assert list(stages) == [*STAGES, "out"] and all(len(times) == 1 for times in stages.values())
    (note,) = CoreMLInstrument().notes(backend)
    assert "no compute plan without Core ML" in note


def test_peak_programs_of_core_ml_compute_what_is_counted(tmp_path: Path) -> None:
    """What runs on a Mac to find its peaks, run here by the interpreter on a small size."""
    layers = write_product(tmp_path / "product.mlpackage", 32)
    weight, matrix = (array.astype(np.float32) for array in product_arrays(32))
    expected = 2 * matrix
    for _ in range(layers):
        expected = expected @ weight.T
    given = {"x": np.full(PRODUCT_INPUT, 2, np.float32)}
    (y,) = open_model(tmp_path / "product.mlpackage", "reference").predict(given).values()
    np.testing.assert_allclose(y[0, :, 0], expected.max(axis=1), rtol=0.02, atol=0.02)
    shape = (1, 2, 4, 4)
    passes = write_copy(tmp_path / "copy.mlpackage", shape, layers=2)
    rows = copy_pattern(shape).astype(np.float32) * np.array([1, 3]).reshape(1, 2, 1, 1)
    for _ in range(passes - 1):
        rows = np.exp(rows) / np.exp(rows).sum(axis=-1, keepdims=True)
    x = {"x": np.array([1, 3], np.float32).reshape(copy_input(shape))}
    (top,) = open_model(tmp_path / "copy.mlpackage", "reference").predict(x).values()
    assert top.reshape(-1) == pytest.approx([rows.max()], rel=0.01)


# What follows: the roof

PEAKS = Peaks(1e12, 1e11, "float16", "made up")  # ridge at 10 FLOPs a byte


def test_a_stage_right_of_the_ridge_gains_nothing_from_fewer_bits() -> None:
    """The paper's case: much arithmetic on each weight."""
    costs = [StageCost("unet", 10**12, 10**6, 10**6)]
    found = roofline(costs, PEAKS, {"unet": [1250.0]}, 1250.0, "float16").stages[0]
    assert (found.bound, found.roof_ms, found.share) == (
        "compute",
        pytest.approx(1000),
        pytest.approx(0.8),
    )
    assert found.int8_saves_ms == pytest.approx(0.01) and found.int4_saves_ms == pytest.approx(
        0.015
    )
    assert "it is compute-bound" in found.verdict and "buy nothing" in found.verdict


def test_a_stage_left_of_the_ridge_gains_what_its_weights_take() -> None:
    costs = [StageCost("unet", 10**8, 10**9, 10**6)]
    found = roofline(costs, PEAKS, {"unet": [25.0]}, 25.0, "float16").stages[0]
    assert found.bound == "memory" and found.roof_ms == pytest.approx(20.02)
    assert found.int8_saves_ms == pytest.approx(10) and found.int4_saves_ms == pytest.approx(15)
    assert (
        "memory-bound" in found.verdict
        and "could help" in found.verdict
        and "60.0 %" in found.verdict
    )


@pytest.mark.parametrize(
    ("measured_ms", "said"),
    [(10_000.0, "neither limits it"), (2500.0, "room for better"), (500.0, "fewer")],
)
def test_the_verdict_follows_the_share_of_the_roof(measured_ms: float, said: str) -> None:
    costs = [StageCost("decode", 10**12, 10**6, 10**6)]
    assert (
        said
        in roofline(costs, PEAKS, {"decode": [measured_ms]}, measured_ms, "float16")
        .stages[0]
        .verdict
    )


def test_a_smaller_unet_buys_what_amdahl_allows() -> None:
    costs = [StageCost(name, 10**9, 10**6, 10**6) for name in STAGES]
    found = roofline(
        costs, PEAKS, {"encode": [10.0], "unet": [30.0], "decode": [10.0]}, 45.0, "float16"
    )
    assert (
        "60%" in found.frame_verdict
        and "1.43 times" in found.frame_verdict
        and "2.50 times" in found.frame_verdict
    )
    whole = found.stages[-1]
    assert (whole.stage, whole.measured_ms, whole.flops) == ("frame", 45.0, 3 * 10**9)


def test_plain_copies_raise_the_bandwidth_of_a_cpu() -> None:
    costs = [StageCost("unet", 10**9, 10**6, 10**6)]
    found = roofline(costs, PEAKS, {"unet": [30.0]}, 30.0, "float32", host_bytes_per_s=2e11)
    assert found.ridge == pytest.approx(5) and "plain copies of the host" in found.peak.how
