"""The coefficients of one diffusion step, and the seeded noise it starts from.

One step at a fixed timestep t, with a = prod(1 - beta) up to t (Ho et al. 2020, eq. 4):
    x_t = sqrt(a) z + sqrt(1 - a) n
    x0  = (x_t - sqrt(1 - a) eps) / sqrt(a)  =  z + r (n - eps),   r = sqrt((1 - a) / a)
The second form of x0 keeps z exact and multiplies only the small difference n - eps by r = 14.6
(SDXS, t = 999). Half precision is therefore sufficient.

Several steps are Euler's method in sigma = sqrt((1 - a) / a) (Karras et al. 2022, alg. 1 without
churn; diffusers' EulerDiscreteScheduler, "trailing" spacing). With d = n - eps a step from sigma
to sigma' is
    z' = z + sigma d,   n' = n - d,   and the next sample is z' + sigma' n'
because n - d is eps. Each step is therefore the one above with another z and n.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..checkpoint.config.frame import FrameConfig
from ..checkpoint.config.scheduler import SchedulerConfig
from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class OneStep:
    """Hold the constants of one step.

    `sqrt_alpha` and `sqrt_one_minus_alpha` mix latents and noise; `ratio` is r, used for x0.
    """

    timestep: int
    noise_scale: float
    sqrt_alpha: float
    sqrt_one_minus_alpha: float
    ratio: float


def alphas_cumprod(config: SchedulerConfig) -> np.ndarray:
    """Return float32 (num_train_timesteps,), in the arithmetic of diffusers' schedulers."""
    steps, dtype = config.num_train_timesteps, np.float32
    if config.beta_schedule == "scaled_linear":
        betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, steps, dtype=dtype) ** 2
    elif config.beta_schedule == "linear":
        betas = np.linspace(config.beta_start, config.beta_end, steps, dtype=dtype)
    else:
        raise ConfigError(
            f"beta_schedule {config.beta_schedule!r}: expected 'scaled_linear' or 'linear'"
        )
    return np.cumprod(1 - betas, dtype=dtype)


def one_step(scheduler: SchedulerConfig, frame: FrameConfig) -> OneStep:
    """Compute the constants of the step at the checkpoint's timestep."""
    alpha = float(alphas_cumprod(scheduler)[frame.timestep])
    return OneStep(
        timestep=frame.timestep,
        noise_scale=frame.noise_scale,
        sqrt_alpha=alpha**0.5,
        sqrt_one_minus_alpha=(1 - alpha) ** 0.5,
        ratio=((1 - alpha) / alpha) ** 0.5,
    )


def frame_steps(scheduler: SchedulerConfig, frame: FrameConfig) -> tuple[OneStep, ...]:
    """Compute the constants of every step of a frame, first to last; one for most checkpoints."""
    start, count = frame.timestep + 1, frame.steps
    # diffusers' "trailing" spacing
    timesteps = np.round(np.arange(start, 0, -start / count)).astype(int)[:count] - 1
    return tuple(
        one_step(scheduler, replace(frame, timestep=int(timestep))) for timestep in timesteps
    )


def seeded_noise(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """Draw standard normal noise, identical on every machine and for every backend.

    Returns float32 (1, height, width, channels). Values are rounded to float16, so backends in half
    precision and in float32 use exactly the same noise.
    """
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal((1, height, width, channels))
    return noise.astype(np.float16).astype(np.float32)
