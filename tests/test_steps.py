"""`--strength` and `--steps`: Euler's steps through the real frame, and the refusals."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from command import Command
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.backend.schedule import alphas_cumprod, frame_steps, seeded_noise
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from sdxs.mlx_sdxs.backend import MlxBackend, load_vae
from sdxs.mlx_sdxs.frame import Frame
from sdxs.mlx_sdxs.networks.layers import load_weights
from sdxs.mlx_sdxs.networks.unet import UNet2DConditionModel
from sdxs.mlx_sdxs.options import MlxOptions

LIVE = ("live", "--headless", "--source", "synthetic", "--frames", 1)


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny sd-turbo that says, as the registry does of the real one, what it was trained for."""
    folder = write_checkpoint(
        tmp_path_factory.mktemp("turbo") / "turbo", tiny(architecture("sd-turbo"))
    )
    (folder / "sdxs.json").write_text(json.dumps({"timesteps": [0, 999], "max_steps": 4}))
    return open_checkpoint(folder)


def draw(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("strength", "steps", "noise_scale", "map_size"),
    [
        (None, 1, 1, (8, 8)),
        (None, 4, 1, (8, 8)),
        (0.5, 3, 1, (8, 8)),
        (0.5, 2, 0, (8, 8)),
        (0.5, 3, 1, (8, 16)),
        (None, 2, 1, (24, 8)),
    ],
)
def test_the_frame_takes_eulers_steps(
    turbo: Checkpoint,
    strength: float | None,
    steps: int,
    noise_scale: float,
    map_size: tuple[int, int],
) -> None:
    """Equal the textbook form in float64, as diffusers has it: x' = x + (sigma' - sigma) eps."""
    told = turbo.at(strength, steps)
    told = replace(told, frame=replace(told.frame, noise_scale=noise_scale))
    unet, vae = UNet2DConditionModel(told.unet), load_vae(told.vae, told.vae_weights, mx.float32)
    load_weights(unet, told.unet_weights, mx.float32)
    schedule = frame_steps(told.scheduler, told.frame)
    shape = (1, *map_size, 4)
    latents, noise, states = draw(shape, 1), draw(shape, 2), draw((1, 77, 64), 3)
    frame = Frame(unet, vae, schedule, told.vae.scaling_factor, mx.float32)
    ours = np.array(
        frame.denoise(mx.array(latents), frame.prompt(mx.array(states)), mx.array(noise))
    )

    alphas = alphas_cumprod(told.scheduler).astype(np.float64)
    sigmas = [((1 - alphas[s.timestep]) / alphas[s.timestep]) ** 0.5 for s in schedule] + [0.0]
    x = latents.astype(np.float64) + sigmas[0] * noise_scale * noise
    for step, sigma, after in zip(schedule, sigmas[:-1], sigmas[1:], strict=True):
        sample = mx.array((x / (sigma**2 + 1) ** 0.5).astype(np.float32))
        eps = np.array(unet(sample, float(step.timestep), mx.array(states)), np.float64)
        x = x + (after - sigma) * eps
    assert len(schedule) == steps
    np.testing.assert_allclose(ours, x, atol=1e-3 * np.abs(x).max())


def test_each_setting_gives_a_picture_of_its_own(turbo: Checkpoint) -> None:
    picture = np.random.Generator(np.random.PCG64(4)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    outputs = []
    for strength, steps in ((None, None), (1.0, 1), (0.5, 1), (None, 2), (0.5, 2)):
        backend = MlxBackend(turbo.at(strength, steps), MlxOptions(64))
        backend.load()
        backend.set_conditioning(draw((1, 77, 64), 3))
        backend.set_params(FrameParams(5))
        out = np.empty_like(picture)
        backend.submit(picture)
        backend.collect(out)
        backend.close()
        outputs.append(out)
    # Strength 1 and one step are what it does anyway.
    np.testing.assert_array_equal(outputs[0], outputs[1])
    for i, one in enumerate(outputs[1:]):
        for other in outputs[2 + i :]:
            assert np.abs(one.astype(int) - other).mean() > 0.5


def test_a_picture_from_the_prompt_alone_starts_from_latents_of_zero(turbo: Checkpoint) -> None:
    """Start as text to image does: x = sigma n, whatever the frame and the frames before."""
    states = draw((1, 77, 64), 3)
    unet, vae = UNet2DConditionModel(turbo.unet), load_vae(turbo.vae, turbo.vae_weights, mx.float32)
    load_weights(unet, turbo.unet_weights, mx.float32)
    frame = Frame(
        unet, vae, frame_steps(turbo.scheduler, turbo.frame), turbo.vae.scaling_factor, mx.float32
    )
    noise = mx.array(seeded_noise(5, 8, 8, 4))
    expected = frame.decode(
        frame.denoise(mx.zeros_like(noise), frame.prompt(mx.array(states)), noise)
    )
    backend = MlxBackend(turbo, MlxOptions(64))
    backend.load()
    backend.set_conditioning(states)
    backend.set_params(FrameParams(5, feedback=0.5, text_only=True))
    out = np.empty((64, 64, 3), np.uint8)
    for seed in (1, 2):
        backend.submit(np.random.default_rng(seed).integers(0, 256, out.shape, dtype=np.uint8))
        backend.collect(out)
        assert np.abs(out.astype(int) - np.array(expected)).max() <= 1
    backend.close()


def test_the_command_tells_a_checkpoint_that_admits_it(
    command: Command, turbo: Checkpoint, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "out.png", "--size", 64)
    assert command(*LIVE, "--model", turbo.folder, "--strength", 0.5, "--steps", 2, *out).code == 0
    first = (tmp_path / "out.png").read_bytes()
    assert command(*LIVE, "--model", turbo.folder, "--strength", 0.7, "--steps", 2, *out).code == 0
    assert (tmp_path / "out.png").read_bytes() != first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strength", 0.5), "alone, and at any other it paints coloured glass"),
        (("--steps", 2), "distilled to take one step"),
        (("--negative-prompt", "ugly"), "without classifier-free guidance"),
        (("--transition", "soon"), "expected a time"),
        (("--prompt", "(a:1.2) and b"), "expected (TEXT:WEIGHT)"),
        (("--prompt", "fine", "--prompt", "(a:1.2) and b"), "expected (TEXT:WEIGHT)"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    options: tuple[object, ...], said: str, command: Command, tmp_path: Path, tiny_folder: Path
) -> None:
    done = command(
        *LIVE, "--model", tiny_folder, "--size", 64, "--out", tmp_path / "out.png", *options
    )
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()
