"""A question of mac-check, and how much a check asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .models import Model

Unit = Literal["machine", "mlx", "gpu", "cpu", "all", "ne"]
ORDER: tuple[Unit, ...] = ("machine", "mlx", "gpu", "cpu", "all", "ne")
COMPUTE_UNITS = {"gpu": "cpu_and_gpu", "cpu": "cpu_only", "all": "all", "ne": "cpu_and_ne"}
LIMITS_S = {"machine": 60.0, "mlx": 600.0, "gpu": 600.0, "cpu": 600.0, "all": 900.0, "ne": 900.0}
CONV_FORMS = "conv forms"
NAMED = {"noise_seed", "sizes"}  # options whose value alone says little


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is asked. runtime: 'coreml', or 'reference' for a rehearsal.

    size: of the demo; None for its own. soak_s: seconds of the soak; None for the plan's own.
    """

    quick: bool = False
    soak_s: float | None = None
    frames: int = 60
    runtime: str = "coreml"
    size: int | None = None

    @property
    def rehearsed(self) -> bool:
        return self.runtime == "reference"

    @property
    def soak_seconds(self) -> float:
        return self.soak_s if self.soak_s is not None else 20.0 if self.quick else 60.0


@dataclass(frozen=True, slots=True)
class Question:
    """One question, asked in a child process of its own.

    group: its key in the JSON. ask: 'module:function'. model: None for one about the machine.
    chosen: options of the Core ML or Core AI backend. values: other numbers. variant: it is one of
    several answers of its group. expected_s: an estimate, not a measurement. title: names it in a
    line where its options do not. skip: why it is not asked.
    """

    group: str
    ask: str
    unit: Unit
    model: Model | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float | str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    variant: bool = False
    quick: bool = False
    needs_exact: bool = False
    expected_s: float = 10.0
    limit_s: float | None = None
    title: str = ""
    skip: str = ""

    @property
    def limit(self) -> float:
        return LIMITS_S[self.unit] if self.limit_s is None else self.limit_s

    @property
    def label(self) -> str:
        """The question in one line: 'demo, core ml: sdpa gpu'."""
        units = COMPUTE_UNITS.values()
        facts = [
            self.unit
            if text in units or name == "unit"
            else f"{name} {text}"
            if name in NAMED
            else text
            for name, text in self.chosen.items()
        ]
        facts = [self.title] if self.title else facts if self.variant else []
        subject = f"{self.model.name}, " if self.model else ""
        return f"{subject}{self.group}{': ' if facts else ''}{' '.join(facts)}"

    @property
    def form(self) -> str:
        """What its packages are built from; questions of one form share them."""
        model = (self.model.base, self.model.vae, self.model.wide) if self.model else ()
        facts = sorted(item for item in self.chosen.items() if "unit" not in item[0])
        return repr((model, facts)) if self.chosen else ""
