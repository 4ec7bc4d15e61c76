"""sdxs.json: the timestep, size and noise scale at which a checkpoint renders a frame."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from ...errors import UsageError
from .fields import Fields, JsonValue, read_json

MOST_STEPS = 50
MOST_SIZE = 1 << 14  # pixels


@dataclass(frozen=True, slots=True)
class FrameConfig:
    """Hold the optional `sdxs.json`. The defaults are those of SDXS-512.

    timestep: timestep of the first step.
    noise_scale: weight of the seeded noise, 0 to 1.
    size: side of the frame in pixels.
    timesteps: first and last valid timestep; `--strength` chooses one. None: only `timestep` is
    valid and `--strength` is an error.
    max_steps: largest useful number of steps.
    steps: steps per frame, chosen by the user and not stored in the file.
    """

    timestep: int = 999
    noise_scale: float = 1.0
    size: int = 512
    timesteps: tuple[int, int] | None = None
    max_steps: int = 1
    steps: int = 1

    @classmethod
    def read(
        cls,
        path: Path,
        num_train_timesteps: int,
        defaults: Mapping[str, JsonValue] = MappingProxyType({}),
    ) -> "FrameConfig":
        """Read and check `sdxs.json`. Raises ConfigError.

        defaults: values for a checkpoint whose repository has no sdxs.json; the file overrides
        them.
        """
        fields = read_json(path) if path.exists() else Fields({}, str(path))
        fields.values = dict(defaults) | dict(fields.values)
        fields.remedy = "write the value this checkpoint was trained for into sdxs.json"
        timestep = fields.integer("timestep", 999, minimum=0)
        timesteps = fields.integers("timesteps", (timestep, timestep), minimum=0)
        config = cls(
            timestep=timestep,
            noise_scale=fields.number("noise_scale", 1.0),
            size=fields.integer("size", 512, minimum=8, most=MOST_SIZE),
            timesteps=(timesteps[0], timesteps[-1]) if "timesteps" in fields.values else None,
            max_steps=fields.integer("max_steps", 1),
        )
        last = num_train_timesteps - 1
        if timestep > last:
            raise fields.fail("timestep", f"0 to {last}, the scheduler's num_train_timesteps")
        if len(timesteps) != 2 or not timesteps[0] <= timestep <= timesteps[1] <= last:
            raise fields.fail(
                "timesteps", f"[first, last] around timestep {timestep}, up to {last}"
            )
        if not 0.0 <= config.noise_scale <= 1.0:
            raise fields.fail("noise_scale", "0 to 1")
        if config.max_steps > MOST_STEPS:
            raise fields.fail("max_steps", f"1 to {MOST_STEPS}")
        return config

    def at(
        self, strength: float | None, steps: int | None, num_train_timesteps: int, model: str
    ) -> "FrameConfig":
        """Return the config with `--strength` and `--steps`; None keeps a value.

        strength: denoising strength, 0 to 1; higher keeps less of the camera.
        timestep = strength * T - 1. Raises UsageError.
        """
        timestep = self.timestep
        first, last = self.timesteps or (timestep, timestep)
        if strength is not None and first == last:
            raise UsageError(
                f"--strength {strength:g}: {model} is trained for timestep {first} alone, and at "
                "any other it paints coloured glass; to keep more of the camera add --control "
                "sketch with --control-scale, or mix it in with --blend"
            )
        if strength is not None:
            timestep = round(strength * num_train_timesteps) - 1
            if not first <= timestep <= last:
                least, most = ((t + 1) / num_train_timesteps for t in (first, last))
                raise UsageError(
                    f"--strength {strength:g}: {model} renders from {least:g} to {most:g}"
                )
        if steps is not None and not 1 <= steps <= self.max_steps:
            reason = (
                "is distilled to take one step, and more steps make its picture worse"
                if self.max_steps == 1
                else (f"takes 1 to {self.max_steps} steps")
            )
            raise UsageError(
                f"--steps {steps}: {model} {reason}; leave --steps out, or choose another model"
            )
        if steps is not None and steps > timestep + 1:
            raise UsageError(
                f"--steps {steps}: timestep {timestep} leaves no room for so many; raise --strength"
            )
        return replace(self, timestep=timestep, steps=self.steps if steps is None else steps)
