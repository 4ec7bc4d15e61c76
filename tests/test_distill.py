"""The recipe at toy size: two steps of every stage, stopped, resumed, and the checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file

from sdxs.common.checkpoint.config.unet import UNetConfig
from sdxs.common.checkpoint.config.vae import read_vae_config
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.prompt.syntax import GALLERY
from sdxs.common.prompt.text_encoder import TextEncoder
from sdxs.experiments.distill import architecture, export, losses, recipe, stages
from sdxs.experiments.distill.material import pairs, photographs, phrases
from sdxs.experiments.distill.training import Flat, LearningPlan, Log, train
from sdxs.experiments.paper import phase10_distillation as phase10
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

SETTINGS = recipe.RecipeSettings(
    squares=6, steps=(2, 2, 2, 2, 2), each=1, workers=1, configs=architecture.toy()
)


def quiet(stage: str, done: float, loss: float) -> None:
    pass


def demo_split() -> photographs.Split:
    folder = recipe.TOKENIZER.parents[2] / "docs" / "demo"
    return photographs.Split(
        tuple(folder / f"{name}.jpg" for name in ("astronaut", "cat", "coffee")), ()
    )


@pytest.fixture(scope="module")
def trained(
    states_once: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, recipe.Networks]]:
    """Two steps of every stage on the demo's photographs."""
    out = tmp_path_factory.mktemp("distill")
    yield out, recipe.run(demo_split(), out, recipe.TOKENIZER, SETTINGS, quiet)


@pytest.mark.thorough
def test_every_stage_leaves_its_state_and_its_log(trained: tuple[Path, recipe.Networks]) -> None:
    out, _ = trained
    assert {p.stem for p in (out / "state").iterdir()} == set(recipe.STAGES)
    log = (out / "log.jsonl").read_text()
    assert all(f'"stage": "{name}", "step": 2' in log for name in recipe.STAGES)


def test_a_finished_run_is_loaded_and_not_trained_again(
    trained: tuple[Path, recipe.Networks],
) -> None:
    out, networks = trained
    before = (out / "log.jsonl").read_text()
    loaded = recipe.run(demo_split(), out, recipe.TOKENIZER, SETTINGS, quiet)
    assert (out / "log.jsonl").read_text() == before
    for ours, theirs in (
        (networks.unet, loaded.unet),
        (networks.vae, loaded.vae),
        (networks.text, loaded.text),
    ):
        for (key, a), (_, b) in zip(
            tree_flatten(ours.parameters()), tree_flatten(theirs.parameters()), strict=True
        ):
            assert mx.array_equal(a, b), key


def test_the_checkpoint_opens_verifies_and_renders(
    trained: tuple[Path, recipe.Networks], tmp_path: Path
) -> None:
    _, networks = trained
    checkpoint = open_checkpoint(
        export.write(networks, SETTINGS.configs, recipe.TOKENIZER, tmp_path / "toy")
    )
    checkpoint.verify()
    stored = load_file(checkpoint.unet_weights)["conv_in.weight"]  # O, I, kH, kW
    kept = np.array(networks.unet.conv_in.weight.astype(mx.float16))  # O, kH, kW, I
    assert stored[3, 2, 0, 1] == kept[3, 0, 1, 2] and stored[3, 2, 1, 0] == kept[3, 1, 0, 2]
    states = TextEncoder(checkpoint).encode("pop art")
    ids = mx.array(recipe.token_ids(recipe.TOKENIZER)[GALLERY.index("pop art")][:1])
    # the file holds half precision; states are normalised, so of size 1
    np.testing.assert_allclose(states, np.array(networks.text(ids)), atol=2e-2)
    backend = MlxBackend(checkpoint, MlxOptions(64))
    backend.load()
    backend.set_conditioning(states)
    picture = photographs.drawn_picture(64, np.random.Generator(np.random.PCG64(3)))
    made = np.empty_like(picture)
    backend.submit(picture)
    backend.collect(made)
    backend.close()
    step = recipe.one_step(checkpoint.scheduler, checkpoint.frame)
    painted = stages.Painter(networks.unet, networks.vae, step)(
        stages.unit(mx.array(picture[None])), mx.array(states)
    )
    painted = np.clip(np.array(painted)[0] * 255, 0, 255)
    assert np.abs(made - painted).mean() < 2  # what was trained is what is rendered


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = mx.zeros((3, 2)), mx.zeros(3)


def line_loss(line: Line, progress: float, x: mx.array, y: mx.array) -> mx.array:
    return mx.square(x @ line.weight.T + line.bias - y).mean()[None]


def line_batch(generator: np.random.Generator) -> tuple[mx.array, mx.array]:
    x = generator.standard_normal((8, 2)).astype(np.float32)
    return mx.array(x), mx.array(x @ np.array([[1, 2, 3], [4, 5, 6]], np.float32) + 1)


def test_stopped_and_taken_up_again_is_as_if_never_stopped(tmp_path: Path) -> None:
    plan, whole, halved = LearningPlan("line", 20, 0.05), Line(), Line()
    train(plan, whole, line_loss, line_batch, tmp_path / "whole", Log(tmp_path / "log"), quiet)
    drawn = 0

    def interrupted(generator: np.random.Generator) -> tuple[mx.array, mx.array]:
        nonlocal drawn
        drawn += 1
        if drawn == 8:
            raise KeyboardInterrupt
        return line_batch(generator)

    with pytest.raises(KeyboardInterrupt):
        train(
            plan, halved, line_loss, interrupted, tmp_path / "halved", Log(tmp_path / "log"), quiet
        )
    fresh = Line()
    train(plan, fresh, line_loss, line_batch, tmp_path / "halved", Log(tmp_path / "log"), quiet)
    assert (
        mx.allclose(whole.weight, fresh.weight, atol=1e-6)
        and float(mx.abs(whole.weight).sum()) > 0.1
    )


def test_adam_over_one_vector_is_adam(tmp_path: Path) -> None:
    flat, plain = Line(), Line()
    settings = {"learning_rate": 0.1, "betas": (0.9, 0.99), "weight_decay": 1e-4}
    vector, optimizer = Flat(flat, optim.AdamW(**settings)), optim.AdamW(**settings)
    for scale in (0.1, 0.2):  # short enough not to be cut
        gradient = {"weight": scale * mx.ones((3, 2)), "bias": -scale * mx.ones(3)}
        vector.update(gradient, 0.1)
        optimizer.update(plain, gradient)
    assert mx.allclose(flat.weight, plain.weight, atol=1e-6) and mx.allclose(
        flat.bias, plain.bias, atol=1e-6
    )


def test_losses_are_nothing_for_equals_and_something_otherwise() -> None:
    a = mx.random.uniform(shape=(2, 16, 16, 3), key=mx.random.key(1))
    assert float(losses.picture_loss(a, a)) == pytest.approx(0, abs=1e-5)
    assert float(losses.picture_loss(a, a * 0.5)) > 0.1
    assert float(losses.unsteadiness(a, a + 0.1, a, a + 0.05)) == 0
    assert float(losses.unsteadiness(a, a + 0.1, a, a + 0.3)) == pytest.approx(0.2, rel=1e-3)


def test_held_out_words_are_not_trained_on() -> None:
    known = {text for prompt in GALLERY for text in phrases.training_prompts(prompt)}
    for prompt in GALLERY:
        assert prompt in known
        found = phrases.held_out_prompts(prompt)
        assert not known & {*found["held-out templates"], *found["held-out phrases"]}
        assert not set(phrases.HELD_OUT_PHRASES[prompt]) & {
            p for each in phrases.PHRASES.values() for p in each
        }
    assert not set(phrases.TEMPLATES) & set(phrases.HELD_OUT_TEMPLATES) and not known & set(
        phrases.NEVER_TRAINED
    )


def test_pairs_are_found_again_and_made_anew_for_another_request(tmp_path: Path) -> None:
    request = pairs.PairRequest((), 2, 32, seed=0, drawn=1.0)
    first = np.array(pairs.make_pairs(request, tmp_path, lambda count: None, workers=1))
    stamp = (tmp_path / "pairs.npy").stat().st_mtime_ns
    again = pairs.make_pairs(request, tmp_path, lambda count: None, workers=1)
    assert np.array_equal(first, again) and (tmp_path / "pairs.npy").stat().st_mtime_ns == stamp
    other = pairs.make_pairs(
        pairs.PairRequest((), 2, 32, seed=1, drawn=1.0), tmp_path, lambda count: None, workers=1
    )
    assert not np.array_equal(first, other)


def test_the_shipped_demo_is_the_recipes_architecture_and_small(demo: Checkpoint) -> None:
    assert UNetConfig.read(demo.folder / "unet" / "config.json") == architecture.unet_config(
        architecture.DEMO
    )
    assert read_vae_config(demo.folder / "vae" / "config.json") == architecture.vae_config(
        architecture.DEMO
    )
    assert sum(p.stat().st_size for p in demo.folder.rglob("*") if p.is_file()) <= 12e6


def test_a_mixture_has_its_own_two_teachers_and_the_way_between_their_prompts() -> None:
    """Planes of one colour each, and prompts of one direction each, tell what a row was made of."""
    levels = np.arange(11) * 20
    pairs = np.broadcast_to(
        levels.astype(np.uint8)[None, :, None, None, None], (3, 11, 64, 64, 3)
    ).copy()
    pairs[:, :, 32:] += 5  # a window from the lower half is 5 brighter
    states = [
        np.eye(10, dtype=np.float32)[style][None, None].repeat(2, axis=0).repeat(77, axis=1)
        for style in range(10)
    ]
    generator = np.random.Generator(np.random.PCG64(1))
    shares = []
    for _ in range(8):
        photographs, wanted, ways, order = stages.blend_batch(
            stages.Pictures(pairs), states, generator, 2, 32
        )
        assert photographs.shape == wanted.shape == (20, 32, 32, 3) and ways.shape == (20, 77, 10)
        assert sorted(np.array(order).tolist()) == list(range(20))
        lower = np.array(photographs).astype(float)
        for row, (picture, way) in enumerate(
            zip(np.array(wanted) * 255, np.array(ways), strict=True)
        ):
            # Of a quarter circle: the shares.
            here, angles = (
                row // 2,
                np.arcsin(np.clip(way[0], 0, 1)) / (np.pi / 2),
            )
            there = int(np.argmax(np.where(np.arange(10) == here, -1, way[0])))
            share = angles[there]
            mixed = (1 - share) * levels[here + 1] + share * levels[there + 1]
            np.testing.assert_allclose(picture - lower[row], mixed, atol=0.5)
            shares.append(float(share))
    pure = np.mean(np.array(shares) == 0)
    assert 0.2 < pure < 0.5 and max(shares) > 0.9


def test_stages_without_steps_leave_the_clock_to_the_others() -> None:
    whole = recipe.RecipeSettings(seconds=100.0)
    assert sum(whole.plan(k).seconds for k in range(5)) == pytest.approx(100.0)
    last = recipe.RecipeSettings(seconds=100.0, steps=(0, 0, 0, 0, 5))
    assert [last.plan(k).seconds for k in range(5)] == [
        pytest.approx(share / 0.18 * 100) for share in last.shares
    ]
    assert last.plan(4) == LearningPlan("blend", 5, 3e-4, pytest.approx(100.0), 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": (1, 2, 3, 4)},
        {"rates": (1e-3,) * 6},
        {"window": 100},
        {"window": 288},
        {"window": 0},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        recipe.RecipeSettings(**wrong)  # type: ignore[arg-type]


def test_the_paper_s_recipes_are_compared_without_the_last_stage() -> None:
    settings = phase10.recipe_settings(240, 1)
    assert settings.steps == (84, 24, 48, 84, 0) and settings.plan(3).rate == phase10.RATE
