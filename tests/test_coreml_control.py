"""The ControlNet as an ML Program, through the interpreter, and the backend around it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from command import Command
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.backend.schedule import frame_steps
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.picture.opencv import cv2
from sdxs.common.picture.temporal import psnr
from sdxs.coreml_backend.backend import CoreMLBackend, controlled
from sdxs.coreml_backend.options import CoreMLOptions, Variant
from sdxs.coreml_backend.program import build
from sdxs.experiments.parity.control import (
    CONTROL_FIXTURES,
    SCALE,
    ControlInputs,
    draw_control_inputs,
    run_control_program,
    tiny_controlled,
)
from sdxs.mac_check.fixtures import SHAPES
from sdxs.mlx_sdxs.backend import load_controlnet, load_vae
from sdxs.mlx_sdxs.frame import Frame
from sdxs.mlx_sdxs.networks.layers import load_weights
from sdxs.mlx_sdxs.networks.unet import UNet2DConditionModel

SIZE = 64
DREAMSHAPER = "sdxs-512-dreamshaper"
STORED = load_file(CONTROL_FIXTURES)
WIDE = SHAPES[32][0]
X0_LIMIT, LEAST_DB = 5e-3, 50.0  # of float16 programs against float32, as for those without control
OPTIONS = CoreMLOptions(SIZE, runtime="reference")

# what is around the programs is tested here: each is built once a run
pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    made: dict[str, Checkpoint] = {}

    def checkpoint(name: str = DREAMSHAPER) -> Checkpoint:
        if name not in made:
            made[name] = tiny_controlled(tmp_path_factory.mktemp("controlled"), name)
        return made[name]

    return checkpoint


def mlx_picture(checkpoint: Checkpoint, inputs: ControlInputs, scale: float) -> np.ndarray:
    """The same frame by MLX in float32."""
    assert checkpoint.control is not None
    unet = UNet2DConditionModel(checkpoint.unet)
    load_weights(unet, checkpoint.unet_weights, mx.float32)
    frame = Frame(
        unet,
        load_vae(checkpoint.vae, checkpoint.vae_weights, mx.float32),
        frame_steps(checkpoint.scheduler, checkpoint.frame),
        checkpoint.vae.scaling_factor,
        mx.float32,
        controlnet=load_controlnet(checkpoint.control, mx.float32),
    )
    noise = mx.array(inputs.noise)
    picture, _, _ = frame(
        mx.array(inputs.picture),
        frame.prompt(mx.array(inputs.encoder_hidden_states)),
        noise,
        mx.zeros_like(noise),
        mx.array(0.0),
        mx.array(inputs.edges),
        mx.array(scale),
    )
    return np.array(picture)


@pytest.mark.parametrize(
    ("name", "attention"),
    [(DREAMSHAPER, "sdpa"), (f"{DREAMSHAPER} {WIDE}", "split_einsum")]
    + [
        pytest.param(*each, marks=pytest.mark.thorough)
        for each in (
            ("sd-turbo", "matmul"),
            (DREAMSHAPER, "split_einsum"),
            (f"{DREAMSHAPER} {WIDE}", "sdpa"),
        )
    ],
)
def test_the_program_computes_what_diffusers_and_mlx_compute(
    name: str, attention: str, checkpoints: Callable[[str], Checkpoint]
) -> None:
    architecture, _, size = name.partition(" ")
    checkpoint = checkpoints(architecture)
    inputs = draw_control_inputs(checkpoint, WIDE if size else SIZE, seed=7)
    for scale, what in ((SCALE, "x0 controlled"), (0.0, "x0 free")):
        made, oracle = (
            run_control_program(checkpoint, inputs, scale, attention),
            STORED[f"{name}/{what}"],
        )
        assert np.linalg.norm(made["x0"] - oracle) / np.linalg.norm(oracle) < X0_LIMIT, what
        assert psnr(made["picture"], mlx_picture(checkpoint, inputs, scale)) > LEAST_DB, what


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture
def backend(
    checkpoints: Callable[[str], Checkpoint], weights: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SDXS_WEIGHTS", str(weights))
    made = CoreMLBackend(checkpoints(DREAMSHAPER), OPTIONS)
    made.load()
    made.set_conditioning(np.random.default_rng(1).standard_normal((1, 77, 64), dtype=np.float32))
    yield made
    made.close()


def render(backend: CoreMLBackend, picture: np.ndarray, edges: np.ndarray | None) -> np.ndarray:
    out = np.empty_like(picture)
    backend.submit(picture, edges)
    backend.collect(out)
    return out


def test_the_backend_changes_program_with_the_scale(
    backend: CoreMLBackend, checkpoints: Callable[[str], Checkpoint]
) -> None:
    inputs = draw_control_inputs(checkpoints(DREAMSHAPER), SIZE, seed=3)
    pictures = {}
    for scale in (0.0, 0.5, 1.0, 0.0):
        backend.set_params(FrameParams(3, control_scale=scale))
        found = render(backend, inputs.picture, inputs.edges if scale else None)
        if scale in pictures:
            np.testing.assert_array_equal(found, pictures[scale])
        pictures[scale] = found
    assert (pictures[0.0] != pictures[0.5]).any() and (pictures[0.5] != pictures[1.0]).any()
    assert backend.memory().model_bytes > 0
    backend.set_params(FrameParams(3, control_scale=1.0))
    with pytest.raises(BackendError, match="came without edges"):
        backend.submit(inputs.picture)


def test_feedback_does_not_reach_back_over_a_change_of_program(
    backend: CoreMLBackend, checkpoints: Callable[[str], Checkpoint]
) -> None:
    one, other = (draw_control_inputs(checkpoints(DREAMSHAPER), SIZE, seed=seed) for seed in (3, 4))
    backend.set_params(FrameParams(3, feedback=0.8, control_scale=1.0))
    first = render(backend, one.picture, one.edges)
    second = render(backend, other.picture, other.edges)
    backend.set_params(FrameParams(3, feedback=0.8))
    render(backend, one.picture, None)
    backend.set_params(FrameParams(3, feedback=0.8, control_scale=1.0))
    np.testing.assert_array_equal(render(backend, one.picture, one.edges), first)
    np.testing.assert_array_equal(render(backend, other.picture, other.edges), second)


def test_a_picture_from_the_prompt_alone(backend: CoreMLBackend) -> None:
    pictures = [
        np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        for seed in (1, 2)
    ]
    backend.set_params(FrameParams(3, feedback=0.5, text_only=True))
    first, second = (render(backend, picture, None) for picture in pictures)
    np.testing.assert_array_equal(first, second)
    backend.set_params(FrameParams(3))
    assert (render(backend, pictures[0], None) != first).any()


def test_what_a_program_cannot_do_is_refused(checkpoints: Callable[[str], Checkpoint]) -> None:
    checkpoint = checkpoints(DREAMSHAPER)
    placed = replace(OPTIONS, placement=("ne", "gpu", "ne"))
    with pytest.raises(UsageError, match="--placement: a frame under --control is one program"):
        CoreMLBackend(checkpoint, placed)
    stepped = replace(checkpoint, control=None, frame=replace(checkpoint.frame, steps=2))
    with pytest.raises(UsageError, match="--steps 2: a Core ML program takes one step"):
        CoreMLBackend(stepped, OPTIONS)
    with pytest.raises(UsageError, match="opened without a ControlNet"):
        build(replace(checkpoint, control=None), Variant(SIZE, stage="controlled"), Path("never"))


def test_programs_with_and_without_control_are_told_apart() -> None:
    free, held = OPTIONS, controlled(OPTIONS)
    assert (
        free.identity() != held.identity()
        and free.stages == ("frame",)
        and held.stages == ("controlled",)
    )


def test_the_command_builds_both_programs_checks_them_and_renders(
    command: Command,
    checkpoints: Callable[[str], Checkpoint],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SDXS_WEIGHTS", str(weights))
    common = (
        "live",
        "--headless",
        "--source",
        "synthetic",
        "--frames",
        1,
        "--size",
        SIZE,
        "--control",
        "sketch",
        "--model",
        checkpoints(DREAMSHAPER).folder,
    )
    coreml = command(
        *common,
        "--backend",
        "coreml",
        "--coreml-runtime",
        "reference",
        "--out",
        tmp_path / "coreml.png",
    )
    assert coreml.code == 0, coreml.err
    records = [json.loads(path.read_text()) for path in weights.glob("coreml/*/record.json")]
    gates = {
        record["variant"].get("control", "none"): min(record["gate_db"].values())
        for record in records
    }
    assert gates.keys() == {"none", "built in"} and min(gates.values()) > 45
    mlx = command(*common, "--out", tmp_path / "mlx.png")
    assert mlx.code == 0, mlx.err
    pictures = [cv2.imread(str(tmp_path / f"{name}.png")) for name in ("coreml", "mlx")]
    assert psnr(*pictures) > 40
