"""A training loop that stops at any step and resumes: state, log, progress, clock.

A stage trains some modules for a number of steps, or for a share of the clock if that ends first.
Its state (weights, Adam's moments, step) is one safetensors file, written under another name
first.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ...common.files import written_whole

SAVE_EVERY_S = 60.0
LOG_EVERY = 50
WARM_UP = 100  # steps

Batch = tuple[mx.array, ...]
Loss = Callable[..., mx.array]  # (module, progress, *batch) -> figures (K,); the first is minimised


class Progress(Protocol):
    """Told after every step: stage, share done (0 to 1), the loss."""

    def __call__(self, stage: str, done: float, loss: float) -> None: ...


@dataclass(frozen=True, slots=True)
class LearningPlan:
    """How long and how fast one stage trains. `seconds` 0 means: as long as the steps take."""

    name: str
    steps: int
    rate: float
    seconds: float = 0.0
    seed: int = 0


class Log:
    """One json object a line; what a resumed run adds stands behind what the first wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **values: str | float | int) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps(
                    {k: round(v, 6) if isinstance(v, float) else v for k, v in values.items()}
                )
                + "\n"
            )


def rate_at(plan: LearningPlan, step: int, progress: float) -> float:
    """Return the learning rate: linear warm-up, then half a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / min(WARM_UP, max(1, plan.steps // 10)))
    return plan.rate * warm * float(0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * progress)))


def train(
    plan: LearningPlan,
    module: nn.Module,
    loss: Loss,
    batch: Callable[[np.random.Generator], Batch],
    folder: Path,
    log: Log,
    report: Progress,
) -> None:
    """Train `module` in place to the end of the plan; a finished stage is only loaded.

    batch: draws the inputs of one step; the generator depends on seed and step alone, so a resumed
    run sees what an uninterrupted one would have seen.
    """
    path = folder / f"{plan.name}.safetensors"
    optimizer = optim.AdamW(learning_rate=plan.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    step, spent, finished, moments = _restore(path, module)
    if finished:
        report(plan.name, 1.0, 0.0)
        return
    flat = Flat(module, optimizer)
    if moments:
        optimizer.state = tree_unflatten(list(moments.items()))
    # Not compiled: fusing a training step takes minutes on CUDA and gains less than one vector for
    # Adam does.
    gradient = nn.value_and_grad(module, lambda *arguments: _first(loss(module, *arguments)))
    clock = _Clock(spent)
    saved, figures, norm = time.monotonic(), None, None
    try:
        while step < plan.steps and (progress := clock.progress(plan, step)) < 1:
            inputs = batch(np.random.Generator(np.random.PCG64([plan.seed, step])))
            (_, figures), gradients = gradient(progress, *inputs)
            norm = flat.update(gradients, rate_at(plan, step, progress))
            mx.async_eval(figures, norm, flat.vector, optimizer.state)
            step += 1
            if step % LOG_EVERY == 0 or step == plan.steps:
                _tell(
                    plan,
                    step,
                    clock,
                    progress,
                    [*np.array(figures).tolist(), float(norm)],
                    log,
                    report,
                )
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(path, module, optimizer, step, clock.seconds(), False)
                saved = time.monotonic()
    except KeyboardInterrupt:
        _save(path, module, optimizer, step, clock.seconds(), False)
        raise
    _save(path, module, optimizer, step, clock.seconds(), True)
    log.add(stage=plan.name, step=step, seconds=clock.seconds(), finished=1)
    report(plan.name, 1.0, float(figures[0]) if figures is not None else 0.0)


class _Clock:
    """Seconds spent on a stage, those of earlier runs included."""

    def __init__(self, spent: float) -> None:
        self._start = time.monotonic() - spent

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def progress(self, plan: LearningPlan, step: int) -> float:
        """Share of the stage that is done, by steps or by the clock, whichever is further."""
        return max(step / plan.steps, self.seconds() / plan.seconds if plan.seconds else 0.0)


def _tell(
    plan: LearningPlan,
    step: int,
    clock: _Clock,
    progress: float,
    values: list[float],
    log: Log,
    report: Progress,
) -> None:
    parts = {f"part{k}": v for k, v in enumerate(values[1:], start=1)}
    log.add(
        stage=plan.name,
        step=step,
        seconds=clock.seconds(),
        rate=rate_at(plan, step, progress),
        loss=values[0],
        **parts,
    )
    report(plan.name, progress, values[0])


class Flat:
    """A module's parameters and Adam over them as one vector, for a dozen operations a step.

    Every tensor starts at a multiple of 64 values, as the GPU's kernels like it.
    """

    def __init__(self, module: nn.Module, optimizer: optim.Optimizer) -> None:
        self._module, self._optimizer = module, optimizer
        self._keys = [
            (key, value.shape, value.size)
            for key, value in tree_flatten(module.trainable_parameters())
        ]
        self._gaps = [mx.zeros(-size % 64) for _, _, size in self._keys]
        self.vector = self._join(module.trainable_parameters())
        optimizer.init({"all": self.vector})

    def update(self, gradients: dict[str, object], rate: float) -> mx.array:
        """Take one step of AdamW with the gradient's length cut to 1; return what it was."""
        gradient = self._join(gradients)
        norm = mx.sqrt(mx.square(gradient).sum())
        gradient = gradient * mx.minimum(1 / (norm + 1e-6), 1.0)
        self._optimizer.learning_rate = rate
        self.vector = self._optimizer.apply_gradients({"all": gradient}, {"all": self.vector})[
            "all"
        ]
        self._module.update(tree_unflatten(list(self._parts())))
        return norm

    def _join(self, tree: dict[str, object]) -> mx.array:
        values = dict(tree_flatten(tree))
        pieces = [
            piece
            for (key, _, _), gap in zip(self._keys, self._gaps, strict=True)
            for piece in (values[key].reshape(-1), gap)
        ]
        return mx.concatenate(pieces)

    def _parts(self) -> Iterator[tuple[str, mx.array]]:
        start = 0
        for key, shape, size in self._keys:
            yield key, self.vector[start : start + size].reshape(shape)
            start += size + -size % 64


def _save(
    path: Path,
    module: nn.Module,
    optimizer: optim.Optimizer,
    step: int,
    seconds: float,
    finished: bool,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"weights.{key}": value for key, value in tree_flatten(module.parameters())}
    if not finished:
        tensors |= {f"optimizer.{key}": value for key, value in tree_flatten(optimizer.state)}
    mx.eval(tensors)
    label = {"step": str(step), "seconds": str(seconds), "finished": str(int(finished))}
    with written_whole(path) as partial:
        mx.save_safetensors(str(partial), tensors, label)


def _restore(path: Path, module: nn.Module) -> tuple[int, float, bool, dict[str, mx.array]]:
    """Load a stage's state, if any: (step, seconds spent, finished, optimizer state)."""
    if not path.is_file():
        return 0, 0.0, False, {}
    tensors, label = mx.load(str(path), format="safetensors", return_metadata=True)
    load_stage(path, module)
    moments = {
        k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")
    }
    return int(label["step"]), float(label["seconds"]), label["finished"] == "1", moments


def _first(figures: mx.array) -> tuple[mx.array, mx.array]:
    return figures[0], figures


def load_stage(path: Path, module: nn.Module) -> None:
    """Load the weights of a saved stage into `module`, strictly."""
    tensors = mx.load(str(path), format="safetensors")
    module.load_weights(
        [(k.removeprefix("weights."), v) for k, v in tensors.items() if k.startswith("weights.")]
    )
    mx.eval(module.parameters())
