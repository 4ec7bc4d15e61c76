"""The sketch checkpoint's recipe at toy size, and the judge of structure on known renderers."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from sdxs.common.backend.protocol import FrameParams
from sdxs.common.backend.schedule import OneStep, one_step, seeded_noise
from sdxs.common.checkpoint.find import Checkpoint, find, with_control
from sdxs.common.picture.edges import f_score
from sdxs.common.picture.temporal import psnr
from sdxs.common.prompt.syntax import GALLERY
from sdxs.common.prompt.text_encoder import TextEncoder
from sdxs.experiments.distill import architecture, export, recipe, sketch
from sdxs.experiments.distill.judge import evaluate_sketch
from sdxs.experiments.distill.judge.evaluate import BackendPainter
from sdxs.experiments.distill.material import photographs, teachers
from sdxs.experiments.distill.training import load_stage
from sdxs.experiments.parity.control import ControlInputs, run_control_program
from sdxs.mlx_sdxs.backend import MlxBackend, load_vae
from sdxs.mlx_sdxs.options import MlxOptions

CONFIGS = architecture.toy_sketch()
SETTINGS = sketch.SketchSettings(squares=4, steps=2, batch=6, side=4, pictures=0.5)
FOLDER = recipe.TOKENIZER.parents[2] / "docs" / "demo"


def quiet(stage: str, done: float, loss: float) -> None:
    pass


def split() -> photographs.Split:
    return photographs.Split(
        tuple(FOLDER / f"{name}.jpg" for name in ("astronaut", "cat", "coffee")), ()
    )


def step() -> OneStep:
    return one_step(architecture.scheduler_config(CONFIGS), architecture.frame_config(CONFIGS))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The toy's own demo, not trained at all."""
    networks = recipe.build(architecture.toy(), 0)
    return find(
        str(
            export.write(
                networks,
                architecture.toy(),
                recipe.TOKENIZER,
                tmp_path_factory.mktemp("toy") / "base",
            )
        )
    )


@pytest.fixture(scope="module")
def trained(
    base: Checkpoint, states_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, sketch.Sketcher]]:
    out = tmp_path_factory.mktemp("sketch")
    yield out, sketch.train_sketch(split(), out, base, CONFIGS, SETTINGS, quiet)


@pytest.mark.parametrize("level", [40, 128, 215])
@pytest.mark.parametrize(("prompt", "dark"), [("pop art", True), ("dark fantasy", False)])
def test_ink_stands_out_whatever_the_picture(prompt: str, dark: bool, level: int) -> None:
    picture, lines = np.full((32, 32, 3), level, np.uint8), np.zeros((32, 32), np.uint8)
    lines[:, 16] = 255
    drawn = sketch.ink(prompt, picture, lines).astype(int)
    paper, line = drawn[5, 2, 0], drawn[5, 16, 0]
    assert (line < paper - 60) if dark else (line > paper + 60)
    assert f_score(sketch.edges_of(drawn.astype(np.uint8), "canny"), lines) == 1


@pytest.mark.parametrize("configs", [architecture.SKETCH, CONFIGS], ids=["shipped", "toy"])
def test_before_training_noise_passes_through_and_leaves_almost_nothing(
    configs: architecture.Configs,
) -> None:
    sketcher = sketch.build(configs, step(), 0)
    channels = configs["unet"]["in_channels"]
    generator = np.random.default_rng(0)
    z, noise = (
        mx.array(generator.standard_normal((2, 16, 16, channels), dtype=np.float32))
        for _ in range(2)
    )
    states = mx.array(generator.standard_normal((2, 77, 64), dtype=np.float32))
    edges = mx.array((generator.random((2, 128, 128)) < 0.1).astype(np.float32))
    x0 = sketcher(z, noise, states, edges, mx.ones((2, 1, 1, 1)))
    # an eps of 0 would leave 14.6 times the noise
    assert float(x0.std()) < 0.15 < 14 < step().ratio


def test_a_unet_too_narrow_to_carry_its_latents_is_refused() -> None:
    narrow = architecture.sketch_of(architecture.toy(), [16, 16, 32], 8, [4, 4, 4, 4])
    with pytest.raises(ValueError, match="8 groups of 2 channels cannot carry 4 latents"):
        sketch.build(narrow, step(), 0)


@pytest.mark.thorough
def test_training_moves_everything_but_what_carries_the_noise(
    trained: tuple[Path, sketch.Sketcher],
) -> None:
    out, sketcher = trained
    fresh = dict(tree_flatten(sketch.build(CONFIGS, step(), SETTINGS.seed).parameters()))
    now = dict(tree_flatten(sketcher.parameters()))
    carrying = (
        "unet.conv_in.",
        "unet.conv_out.",
        "unet.conv_norm_out.",
        "unet.up_blocks.2.resnets.1.conv_shortcut.",
    )
    for key, value in now.items():
        same = mx.array_equal(value, fresh[key])
        assert same or not key.startswith(carrying), key
    # Decay alone moves a value by at most 1e-7 of itself a step. The control adds nothing before
    # its last convolutions have moved, which takes the first of the two steps.
    still = [key for key, value in now.items() if float(mx.abs(value - fresh[key]).max()) < 5e-7]
    assert [key for key in still if not key.startswith(carrying)] == []
    assert '"stage": "sketch", "step": 2' in (out / "log.jsonl").read_text()


def test_what_is_there_is_not_made_again(
    trained: tuple[Path, sketch.Sketcher], base: Checkpoint
) -> None:
    out, sketcher = trained
    made = (out / "material" / "inked.npy").stat().st_mtime_ns
    again = sketch.train_sketch(split(), out, base, CONFIGS, SETTINGS, quiet)
    assert (out / "material" / "inked.npy").stat().st_mtime_ns == made
    restored = sketch.build(CONFIGS, step(), 9)
    load_stage(out / "state" / "sketch.safetensors", restored)
    for (key, a), (_, b), (_, c) in zip(
        *(tree_flatten(m.parameters()) for m in (sketcher, again, restored)), strict=True
    ):
        assert mx.array_equal(a, b) and mx.array_equal(a, c), key


def test_the_checkpoint_renders_what_the_trainer_sees(
    trained: tuple[Path, sketch.Sketcher], base: Checkpoint, tmp_path: Path
) -> None:
    _, trained_sketcher = trained
    sketcher = sketch.build(CONFIGS, step(), 0)
    sketcher.update(trained_sketcher.parameters())
    for conv in sketcher.controlnet.controlnet_down_blocks:  # two steps leave too little to see
        conv.weight = 0.2 * mx.random.normal(conv.weight.shape, key=mx.random.key(1))
    checkpoint = with_control(
        find(str(sketch.write(sketcher, CONFIGS, base, tmp_path / "toy-sketch"))), "sketch"
    )
    checkpoint.verify()
    picture = photographs.drawn_picture(64, np.random.Generator(np.random.PCG64(3)))
    edges, states = (
        sketch.edges_of(picture, "soft"),
        np.random.default_rng(1).standard_normal((1, 77, 64), dtype=np.float32),
    )
    backend = MlxBackend(checkpoint, MlxOptions(64))
    backend.load()
    backend.set_conditioning(states)
    vae = load_vae(base.vae, base.vae_weights, mx.float32)
    latents = vae.encode(mx.array(picture[None]).astype(mx.float32) / 127.5 - 1)
    noise = mx.array(seeded_noise(0, 8, 8, 4))
    made, seen = np.empty_like(picture), []
    for scale in (1.0, 0.0):
        backend.set_params(FrameParams(control_scale=scale))
        backend.submit(picture, edges)
        backend.collect(made)
        lines = mx.array(edges[None]).astype(mx.float32) / 255
        x0 = sketcher(latents, noise, mx.array(states), lines, mx.full((1, 1, 1, 1), scale))
        wanted = np.clip((np.array(vae.decode(x0))[0] + 1) * 127.5, 0, 255)
        # the file holds half precision, and an error of eps is one of 14.6 times that in x0
        assert np.abs(made - wanted).mean() < 2, scale
        seen.append(made.astype(int))
    assert np.abs(seen[0] - seen[1]).mean() > 4  # the control is seen
    backend.close()


def test_the_judge_tells_structure_from_none() -> None:
    pictures = [photographs.centre_square(photographs.read(path), 128) for path in split().train]

    def obedient(prompt: str, picture: np.ndarray, edges: np.ndarray, scale: float) -> np.ndarray:
        return (
            sketch.ink(prompt, teachers.render(prompt, picture), edges)
            if scale
            else np.full_like(picture, 128)
        )

    found = evaluate_sketch.judge(obedient, teachers.render, pictures)
    means = found["mean F-score"]
    assert means["control, canny edges"] > 0.95
    assert means["plain image-to-image at t = 999"] == 0
    assert means["control, another picture's edges"] < means["control, soft edges"] - 0.2
    # The stand-in for the demo is the teacher.
    assert means["the demo at t = 500"] == means["teacher"]
    assert set(found["by prompt"]) == set(GALLERY)
    right = found["nearest teacher right"]
    # What is always grey is nearest to one and the same.
    assert right["canny"] == 1 and right["plain"] <= 0.2
    assert evaluate_sketch.sheet(obedient, pictures).shape == (6 * 128, 6 * 128, 3)


@pytest.fixture(scope="module")
def shipped() -> Checkpoint:
    return with_control(find("demo-sketch", download=False), "sketch")


def test_the_shipped_checkpoint_is_sdxs_way_of_working(shipped: Checkpoint) -> None:
    shipped.verify()
    assert shipped.control is not None and shipped.control.folder == shipped.folder / "controlnet"
    assert (shipped.frame.timestep, shipped.frame.noise_scale, shipped.frame.size) == (
        999,
        1.0,
        256,
    )
    demo = find("demo", download=False)
    for part in ("vae", "text_encoder", "tokenizer"):
        for path in (demo.folder / part).iterdir():
            assert (shipped.folder / part / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_the_cameras_structure_survives_in_pictures_it_was_not_trained_on(
    shipped: Checkpoint,
) -> None:
    pictures = [photographs.centre_square(photographs.read(path), 256) for path in split().train]
    renderer = BackendPainter(shipped, 256)
    means = evaluate_sketch.judge(renderer, teachers.render, pictures)["mean F-score"]
    renderer.close()
    assert means["control, canny edges"] > 0.75 and means["control, soft edges"] > 0.6
    assert means["plain image-to-image at t = 999"] < 0.1
    assert means["control, another picture's edges"] < means["control, soft edges"] - 0.15


def test_the_shipped_core_ml_program_draws_the_same(shipped: Checkpoint) -> None:
    picture = photographs.centre_square(photographs.read(split().train[0]), 128)
    states = TextEncoder(shipped).encode("a pencil sketch")
    inputs = ControlInputs(
        picture, sketch.edges_of(picture, "soft"), states, seeded_noise(0, 16, 16, 16)
    )
    backend = MlxBackend(shipped, MlxOptions(128))
    backend.load()
    backend.set_conditioning(states)
    backend.set_params(FrameParams(control_scale=1.0))
    backend.submit(picture, inputs.edges)
    made = np.empty_like(picture)
    backend.collect(made)
    backend.close()
    # Half precision against single: noise passes through the whole network at 14.6 times what it
    # is in x0.
    assert psnr(run_control_program(shipped, inputs, 1.0)["picture"], made) > 38
