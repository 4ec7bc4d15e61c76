"""The constants of the one step, and noise that is the same everywhere."""

import numpy as np
import pytest

from sdxs.common.backend.schedule import alphas_cumprod, frame_steps, one_step, seeded_noise
from sdxs.common.checkpoint.config.frame import FrameConfig
from sdxs.common.checkpoint.config.scheduler import SchedulerConfig
from sdxs.common.errors import ConfigError, UsageError

SDXS = SchedulerConfig(
    num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
)


def test_sdxs_step_is_the_last_timestep_with_its_published_constants() -> None:
    step = one_step(SDXS, FrameConfig())
    assert step.timestep == 999 and step.noise_scale == 1.0
    assert step.sqrt_alpha == pytest.approx(0.0683, abs=5e-5)
    assert step.sqrt_one_minus_alpha == pytest.approx(0.9977, abs=5e-5)
    assert step.ratio == pytest.approx(14.6, abs=0.05)


def test_the_two_forms_of_x0_are_one() -> None:
    step = one_step(SDXS, FrameConfig())
    z, noise, eps = np.random.Generator(np.random.PCG64(1)).standard_normal((3, 100))
    x_t = step.sqrt_alpha * z + step.sqrt_one_minus_alpha * noise
    textbook = (x_t - step.sqrt_one_minus_alpha * eps) / step.sqrt_alpha
    np.testing.assert_allclose(z + step.ratio * (noise - eps), textbook, rtol=1e-9)


def test_alphas_fall_from_one_to_nearly_nothing() -> None:
    alphas = alphas_cumprod(SDXS)
    assert alphas.shape == (1000,) and alphas.dtype == np.float32
    assert alphas[0] == pytest.approx(1 - 0.00085, abs=1e-7)
    assert alphas[999] == pytest.approx(0.0046600, rel=1e-4)
    assert (np.diff(alphas) < 0).all()


def test_a_linear_schedule_is_another_one() -> None:
    linear = SchedulerConfig(1000, 0.0001, 0.02, "linear")
    alphas = alphas_cumprod(linear)
    assert alphas[999] == pytest.approx(np.prod(1 - np.linspace(0.0001, 0.02, 1000)), rel=1e-3)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="squaredcos_cap_v2"):
        alphas_cumprod(SchedulerConfig(1000, 0.00085, 0.012, "squaredcos_cap_v2"))


def test_another_timestep_is_taken_from_the_checkpoint() -> None:
    step = one_step(SDXS, FrameConfig(timestep=500, noise_scale=0.0))
    assert step.timestep == 500 and step.noise_scale == 0.0
    assert step.sqrt_alpha**2 == pytest.approx(float(alphas_cumprod(SDXS)[500]))
    assert step.sqrt_alpha**2 + step.sqrt_one_minus_alpha**2 == pytest.approx(1)


def test_noise_is_the_same_on_every_machine() -> None:
    assert seeded_noise(0, 2, 2, 4).ravel()[:6].tolist() == [
        0.125732421875,
        -0.132080078125,
        0.640625,
        0.10491943359375,
        -0.53564453125,
        0.361572265625,
    ]
    assert seeded_noise(7, 64, 64, 4).ravel()[-4:].tolist() == [
        1.548828125,
        1.904296875,
        0.7958984375,
        -0.44775390625,
    ]


def test_noise_is_float32_of_values_that_half_precision_holds() -> None:
    noise = seeded_noise(3, 64, 48, 4)
    assert noise.shape == (1, 64, 48, 4) and noise.dtype == np.float32
    assert (noise.astype(np.float16).astype(np.float32) == noise).all()
    assert noise.mean() == pytest.approx(0, abs=0.03) and noise.std() == pytest.approx(1, abs=0.03)


def test_noise_follows_its_seed() -> None:
    assert (seeded_noise(5, 8, 8, 4) == seeded_noise(5, 8, 8, 4)).all()
    assert (seeded_noise(5, 8, 8, 4) != seeded_noise(6, 8, 8, 4)).any()


# EulerDiscreteScheduler("trailing") of diffusers 0.42: timesteps, sigmas, and where it takes z =
# 0.3, n = -1.1 when the network is eps = tanh(0.7 x + 0.001 t).
EULER = {
    1: ((999,), (14.614646911621094,), -19.288553437068373),
    2: ((999, 499), (14.614646911621094, 1.6128870248794556), -17.288037727261308),
    3: (
        (999, 666, 332),
        (14.614646911621094, 2.9183084964752197, 0.9292148947715759),
        -15.672136035143467,
    ),
    4: (
        (999, 749, 499, 249),
        (14.614646911621094, 4.081730842590332, 1.6128870248794556, 0.6932054162025452),
        -14.274962918092454,
    ),
}


@pytest.mark.parametrize("count", EULER)
def test_steps_are_those_of_diffusers_euler(count: int) -> None:
    timesteps, sigmas, expected = EULER[count]
    steps = frame_steps(SDXS, FrameConfig(steps=count))
    assert tuple(step.timestep for step in steps) == timesteps
    np.testing.assert_allclose([step.ratio for step in steps], sigmas, rtol=1e-6)
    z, n = 0.3, -1.1
    for step in steps:  # as both frames do it
        eps = np.tanh(
            0.7 * (step.sqrt_alpha * z + step.sqrt_one_minus_alpha * n) + 0.001 * step.timestep
        )
        z, n = z + step.ratio * (n - eps), eps
    assert z == pytest.approx(expected, rel=1e-6)


def test_steps_from_a_lower_timestep_are_spread_below_it() -> None:
    steps = frame_steps(SDXS, FrameConfig(timestep=499, timesteps=(0, 999), max_steps=4, steps=2))
    assert [step.timestep for step in steps] == [499, 249]


TURBO = FrameConfig(timesteps=(0, 999), max_steps=4)


@pytest.mark.parametrize(
    ("strength", "timestep"), [(None, 999), (1.0, 999), (0.5, 499), (0.001, 0)]
)
def test_strength_chooses_the_timestep(strength: float | None, timestep: int) -> None:
    assert TURBO.at(strength, None, 1000, "sd-turbo").timestep == timestep


@pytest.mark.parametrize(
    ("frame", "strength", "steps", "said"),
    [
        (FrameConfig(), 0.5, None, "trained for timestep 999 alone.*--control-scale.*--blend"),
        (
            FrameConfig(timestep=500, noise_scale=0.0, timesteps=(500, 500)),
            1.0,
            None,
            "trained for timestep 500 alone",
        ),
        (FrameConfig(timestep=700, timesteps=(399, 799)), 0.9, None, "renders from 0.4 to 0.8"),
        (TURBO, 0.0, None, "renders from 0.001 to 1"),
        (FrameConfig(), None, 2, "distilled to take one step"),
        (TURBO, None, 5, "takes 1 to 4 steps"),
        (TURBO, None, 0, "takes 1 to 4 steps"),
        (TURBO, 0.002, 4, "no room for so many"),
    ],
)
def test_strength_and_steps_are_refused_with_the_reason(
    frame: FrameConfig, strength: float | None, steps: int | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        frame.at(strength, steps, 1000, "model")
