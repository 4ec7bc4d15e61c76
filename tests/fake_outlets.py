"""Outlets that a child process of `ProcessOutlet` opens: they write, hang, die or refuse."""

import os
import threading
from pathlib import Path

import numpy as np

from sdxs.common.errors import SinkError, SinkLost
from sdxs.common.io.outputs.plan import OutputPlan


class Writing:
    """Appends the mean of each picture to the file that is its name."""

    idle_s: float | None = 0.01

    def __init__(self, plan: OutputPlan) -> None:
        self._file = Path(plan.name)

    def send(self, picture: np.ndarray, at_s: float) -> None:
        self._say(f"{picture.mean():.0f}")

    def idle(self) -> None:
        self._say("idle")

    def close(self) -> None:
        self._say("closed")

    def _say(self, text: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{text}\n")


class Dying(Writing):
    """Ends its process as a crashing library does."""

    def send(self, picture: np.ndarray, at_s: float) -> None:
        os.abort()


class Hanging(Writing):
    """Takes one picture and never says so."""

    def send(self, picture: np.ndarray, at_s: float) -> None:
        threading.Event().wait()


class Refusing(Writing):
    """Cannot be opened."""

    def __init__(self, plan: OutputPlan) -> None:
        raise SinkError(f"{plan.label}: the name is taken; choose another")


class Losing(Writing):
    """Loses its receiver with every picture."""

    def send(self, picture: np.ndarray, at_s: float) -> None:
        raise SinkLost("lost: hung up")
