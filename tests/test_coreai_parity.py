"""The Core AI programs on Apple's runtime against diffusers' outputs for the same weights.

Stored outputs are those of `test_parity` and `test_controlnet`. `make parity` compares with live
diffusers, full size too.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import coreai_here  # noqa: F401 - skips this file where Apple's runtime cannot run
from planted import PLANTS, Plant
from sdxs.common.backend.gate import probe
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.picture.temporal import psnr
from sdxs.coreai_backend.ops import CoreAIOps
from sdxs.experiments.parity.control import (
    CONTROL_FIXTURES,
    CONTROL_NAMES,
    SCALE,
    draw_control_inputs,
    tiny_controlled,
)
from sdxs.experiments.parity.coreai import LIMITS, agrees, run_control_program, run_program
from sdxs.experiments.parity.coreml import PICTURE_LIMIT_DB, X0_LIMIT
from sdxs.experiments.parity.demos import DEMO_FIXTURES, SEED, demo_inputs, sketch_inputs
from sdxs.mac_check.fixtures import (
    FIXTURES,
    NAMES,
    Arrays,
    Inputs,
    distances,
    inputs_of,
    run_frame,
    tiny_checkpoint,
    tiny_inputs,
)

STORED = load_file(FIXTURES / "parity.safetensors")
STORED_CONTROL = load_file(CONTROL_FIXTURES)
STORED_DEMOS = load_file(DEMO_FIXTURES)
SDXS = ("sdxs-512-0.9", "sdxs-512-dreamshaper")
Open = Callable[[str], Checkpoint]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """The tiny checkpoints that the stored outputs belong to, each written once."""
    base, written = tmp_path_factory.mktemp("coreai-parity"), {}

    def open_one(name: str) -> Checkpoint:
        if name not in written:
            written[name] = open_checkpoint(tiny_checkpoint(base, name))
        return written[name]

    return open_one


def oracle(name: str, label: str = "frame") -> dict[str, np.ndarray]:
    """x0 and picture of diffusers."""
    return {what: STORED[f"{name}/{label}/{what}"] for what in ("x0", "picture")}


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


def thorough(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.thorough)


@pytest.mark.parametrize(
    ("name", "label", "attention"),
    [
        (SDXS[0], "frame 96x64", "sdpa"),
        slow(SDXS[0], "frame 64x128", "split_einsum"),
        thorough(SDXS[1], "frame 96x64", "split_einsum"),
        ("sd-turbo", "frame 128x64", "sdpa"),
        ("tiny-sd", "frame 96x64", "split_einsum"),
        thorough("small-sd", "frame 128x64", "matmul"),
        slow(NAMES[0], "frame", "sdpa"),
        *(thorough(name, "frame", "sdpa") for name in NAMES[1:]),
        *(thorough(name, "frame", "split_einsum") for name in NAMES),
    ],
)
def test_a_float32_program_equals_diffusers(
    checkpoint: Open, name: str, label: str, attention: str
) -> None:
    given = checkpoint(name)
    inputs = inputs_of(label, tiny_inputs(given))
    ours, wanted = run_program(given, inputs, attention), oracle(name, label)
    assert ours["picture"].shape == inputs.frame.shape
    assert agrees(ours, wanted), distances(ours, wanted)


@pytest.mark.parametrize("name", [*map(slow, NAMES[:2]), *map(thorough, NAMES[2:])])
def test_a_float16_program_is_near_diffusers(checkpoint: Open, name: str) -> None:
    """In the form that is the default on a CPU, and the exactest there."""
    given = checkpoint(name)
    ours, wanted = run_program(given, tiny_inputs(given), dtype="float16"), oracle(name)
    assert agrees(ours, wanted, "float16"), distances(ours, wanted)


@pytest.mark.parametrize("name", [slow(NAMES[0]), *map(thorough, NAMES[1:])])
def test_sdpa_in_float16_is_as_near_as_core_ml_may_be(checkpoint: Open, name: str) -> None:
    """This runtime sums its products in float16, and loses up to 2.3e-3 of x0; so does matmul."""
    given = checkpoint(name)
    relative, quality = distances(
        run_program(given, tiny_inputs(given), "sdpa", "float16"), oracle(name)
    )
    assert relative < X0_LIMIT and quality > PICTURE_LIMIT_DB


@pytest.mark.parametrize("dtype", LIMITS)
def test_the_demo_equals_diffusers(dtype: str) -> None:
    checkpoint, inputs = demo_inputs()
    ours = run_program(checkpoint, inputs, dtype=dtype)
    wanted = {what: STORED_DEMOS[f"demo/{what}"] for what in ("x0", "picture")}
    assert agrees(ours, wanted, dtype), distances(ours, wanted)


@pytest.mark.parametrize(
    ("name", "scale"),
    [(CONTROL_NAMES[0], SCALE), slow(CONTROL_NAMES[0], 0.0), thorough(CONTROL_NAMES[1], SCALE)],
)
def test_a_frame_under_control_equals_diffusers(tmp_path: Path, name: str, scale: float) -> None:
    given = tiny_controlled(tmp_path, name)
    made = run_control_program(given, draw_control_inputs(given, 64, seed=7), 7, scale)["x0"]
    wanted = STORED_CONTROL[f"{name}/{'x0 controlled' if scale else 'x0 free'}"]
    off = np.linalg.norm(made - wanted) / np.linalg.norm(wanted)
    assert off < LIMITS["float32"][0]


@pytest.mark.parametrize(
    ("dtype", "most", "least_db"), [("float32", 2e-5, 75.0), slow("float16", 6e-2, 42.0)]
)
def test_demo_sketch_under_control_equals_diffusers(
    dtype: str, most: float, least_db: float
) -> None:
    """Its x0 is badly conditioned: diffusers in float32 is 3.8e-6 off diffusers in float64, and
    Core ML's interpreter loses as much in float16.
    """
    sketch, inputs = sketch_inputs()
    made = run_control_program(sketch, inputs, SEED, SCALE, dtype)
    controlled, free = (
        np.linalg.norm(made["x0"] - x0) / np.linalg.norm(x0)
        for x0 in (STORED_DEMOS[f"demo-sketch/x0 {name}"] for name in ("controlled", "free"))
    )
    assert controlled < most
    assert free > 0.1, "the control makes no difference"
    assert psnr(made["picture"], STORED_DEMOS["demo-sketch/picture"]) > least_db


@pytest.fixture(scope="module")
def by_mlx(demo: Checkpoint) -> tuple[Inputs, Arrays]:
    """A frame of 32 x 32 pixels and what MLX makes of it."""
    inputs = replace(tiny_inputs(demo), frame=probe(demo, 32)[0])
    return inputs, run_frame(demo, inputs)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_error_is_caught(
    demo: Checkpoint,
    by_mlx: tuple[Inputs, Arrays],
    plant: Plant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, wanted = by_mlx
    plant(monkeypatch, CoreAIOps)
    assert not agrees(run_program(demo, inputs, "sdpa"), wanted)


def test_without_an_error_none_is_seen(demo: Checkpoint, by_mlx: tuple[Inputs, Arrays]) -> None:
    inputs, wanted = by_mlx
    assert agrees(run_program(demo, inputs, "sdpa"), wanted)


@pytest.mark.thorough
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_error_is_caught_by_diffusers(
    checkpoint: Open, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, label = checkpoint(SDXS[1]), "frame 96x64"
    inputs = inputs_of(label, tiny_inputs(given))
    plant(monkeypatch, CoreAIOps)
    assert not agrees(run_program(given, inputs), oracle(SDXS[1], label))
