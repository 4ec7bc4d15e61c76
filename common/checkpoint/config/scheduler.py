"""scheduler_config.json, field names as in diffusers."""

from dataclasses import dataclass
from pathlib import Path

from .fields import Fields, read_json


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Hold `scheduler/scheduler_config.json`: the noise schedule of the training.

    Only the schedule is read. One-step inference needs no solver, so the file's class name (Euler,
    PNDM, ...) does not affect the picture.
    """

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str

    @classmethod
    def read(cls, path: Path) -> "SchedulerConfig":
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, fields: Fields) -> "SchedulerConfig":
        fields.require("prediction_type", ("epsilon",), "epsilon")
        fields.require("beta_schedule", ("scaled_linear", "linear"))
        fields.require("trained_betas", (None,))
        fields.require("rescale_betas_zero_snr", (False,), False)
        config = cls(
            num_train_timesteps=fields.integer("num_train_timesteps", 1000),
            beta_start=fields.positive("beta_start"),
            beta_end=fields.positive("beta_end"),
            beta_schedule=fields.text("beta_schedule"),
        )
        for key, beta in (("beta_start", config.beta_start), ("beta_end", config.beta_end)):
            if beta >= 1:
                raise fields.fail(key, "a number below 1")
        return config
