"""Core AI: units, forms, composites, inputs in place, and what its cache saves.

Imports nothing of Apple's package until a question is asked: it fits macOS 26 and later only. Under
macOS 26 and in a rehearsal it is the package's own runtime that answers, on one CPU core.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..common.backend.gate import probe, probe_edges
from ..common.backend.memory import footprint_bytes
from ..common.backend.program_cache import read_record
from ..common.checkpoint.find import Checkpoint
from ..common.errors import UsageError
from ..common.settings import parse_settings
from ..coreai_backend.apart import SELF_CHECK_LIMIT
from ..coreai_backend.cache import Built
from ..coreai_backend.options import CoreAIOptions, has_framework
from ..coreai_backend.prepare import find_or_build, refuse_without_runtime
from .coreml import MOST_S, nearness, probe_params, spread
from .setup import Answer, Setup

if TYPE_CHECKING:
    from ..coreai_backend.ops import CoreAIOps
    from ..coreai_backend.runner import Runner

COPIES = 20


def options_of(setup: Setup, checkpoint: Checkpoint) -> CoreAIOptions:
    """Parse the options of the Core AI backend; without the framework, its only unit is the CPU."""
    texts = dict(setup.chosen)
    if not has_framework():
        texts["unit"] = "cpu"
    options = parse_settings(CoreAIOptions, texts, "coreai", size=setup.frame)
    return options.controlled() if checkpoint.control else options


def where_it_runs(ask: Callable[[Setup], Answer]) -> Callable[[Setup], Answer]:
    """Answer why a question is not asked, where Apple's package is missing or does not fit."""

    def asked(setup: Setup) -> Answer:
        try:
            refuse_without_runtime()
        except UsageError as error:
            return {"ok": True, "asked": False, "note": str(error)}
        return ask(setup)

    return asked


@where_it_runs
def ask_unit(setup: Setup) -> Answer:
    """One form of the program on one unit: nearness, x0 beside the CPU's, times, memory."""
    checkpoint = setup.checkpoint()
    options = options_of(setup, checkpoint)
    built = find_or_build(checkpoint, options)
    x0 = {}
    answer: Answer = {"runs_on": options.used_unit, "framework": has_framework()}
    for unit in ("cpu", options.used_unit):
        began = time.perf_counter()
        runner = opened(built, checkpoint, options, unit)
        loaded_s = time.perf_counter() - began
        image, x0[unit], times = render(runner, setup)
        figures: Answer = {"load_s": loaded_s, "first_frame_ms": times[0]}
        answer |= figures | {"frame_ms": spread(times[1:]), "in_place": runner.in_place}
        answer["footprint_bytes"] = footprint_bytes()
        runner.close()
        if unit == "cpu":
            answer["cpu_only_ms"] = spread(times[1:]).get("p50", times[0])
    near = nearness(image, setup, options.weights != "float16")
    off = relative(x0[options.used_unit], x0["cpu"])
    record = read_record(built.folder)
    facts = {"build_s": record.seconds, "weights_error": record.weights_error, "x0_off_cpu": off}
    return {**near, **answer, **facts, "ok": bool(near["ok"]) and off <= SELF_CHECK_LIMIT}


@where_it_runs
def ask_composites(setup: Setup) -> Answer:
    """Time a program whose norms and attention are known by name, and one of their plain bodies.

    A ratio of 1 says that the names gain nothing: the compiler has not mapped them to kernels.
    """
    from ..coreai_backend.ops import CoreAIOps, Tensor

    class Plain(CoreAIOps):
        def _composite(self, name, inputs, attributes, body):  # type: ignore[no-untyped-def]
            return Tensor(body(*inputs.values()))

    checkpoint = setup.checkpoint()
    options = options_of(setup, checkpoint)
    medians, x0 = list[float](), list[np.ndarray]()
    for kind in (CoreAIOps, Plain):
        with tempfile.TemporaryDirectory(dir=setup.scratch) as folder:
            built = written(Path(folder), checkpoint, options, kind)
            runner = opened(built, checkpoint, options, options.used_unit)
            _, found, times = render(runner, setup)
            x0.append(found)
            medians.append(float(np.median(times[1:] or times)))
            runner.close()
    off = relative(x0[1], x0[0])
    return {
        "ok": off <= SELF_CHECK_LIMIT,
        "composites_ms": medians[0],
        "plain_ms": medians[1],
        "ratio": medians[1] / medians[0],
        "x0_off": off,
    }


@where_it_runs
def ask_arrays(setup: Setup) -> Answer:
    """Do inputs written in place reach a call; what do copies cost; are rows of outputs padded?"""
    from coreai.runtime import NDArray

    from ..coreai_backend.private import view

    checkpoint = setup.checkpoint()
    options = options_of(setup, checkpoint)
    runner = opened(find_or_build(checkpoint, options), checkpoint, options, options.used_unit)
    picture, _ = probe(checkpoint, setup.frame)
    moved = np.ascontiguousarray(np.roll(picture, 8, axis=1))
    held, made = runner.in_place, list[np.ndarray]()
    for in_place in (held, False):
        runner.in_place = in_place
        made += [runner.run(each)["image"].copy() for each in (picture, moved)]
    pairs = zip(made[:2], made[2:], strict=True)
    same = all(np.array_equal(one, other) for one, other in pairs)
    outputs = runner.call()
    image, noise = outputs["image"], np.ones((1, 4, 64, 64), np.float32)
    costs = {
        "ndarray_of_picture_ms": median_ms(lambda: NDArray(picture)),
        "ndarray_of_noise_ms": median_ms(lambda: NDArray(noise)),
        "picture_numpy_ms": median_ms(image.numpy),
        "picture_view_ms": median_ms(lambda: view(image)),
    }
    layout = {
        name: {"shape": list(each.shape), "strides": list(each.strides)}
        for name, each in {**runner.arrays, **outputs}.items()
    }
    runner.close()
    return {"ok": same, "in_place": held, **costs, "layout": layout}


@where_it_runs
def ask_load(setup: Setup) -> Answer:
    """Open a program in this fresh process: the second one has what Core AI kept of the first."""
    checkpoint = setup.checkpoint()
    options = options_of(setup, checkpoint)
    built = find_or_build(checkpoint, options)
    began = time.perf_counter()
    runner = opened(built, checkpoint, options, options.used_unit)
    loaded_s = time.perf_counter() - began
    image, _, times = render(runner, setup)
    runner.close()
    facts: Answer = {"load_s": loaded_s, "first_frame_ms": times[0], "frame_ms": spread(times[1:])}
    return nearness(image, setup) | facts


def opened(built: Built, checkpoint: Checkpoint, options: CoreAIOptions, unit: str) -> "Runner":
    """Open a program in this process, with the prompt and noise of the probe frame."""
    from ..coreai_backend.runner import Runner

    runner = Runner(built, checkpoint, options, unit)  # type: ignore[arg-type]
    runner.set_conditioning(probe(checkpoint, options.size)[1])
    runner.set_params(probe_params(checkpoint))
    return runner


def render(runner: "Runner", setup: Setup) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Render the probe frame `setup.frames` times, fewer after MOST_S, but twice.

    Returns the last picture and x0, and milliseconds.
    """
    picture, _ = probe(setup.checkpoint(), setup.frame)
    edges = probe_edges(picture)
    until, times = time.perf_counter() + MOST_S, list[float]()
    while len(times) < 2 or (len(times) < setup.frames and time.perf_counter() < until):
        began = time.perf_counter()
        made = runner.run(picture, edges)
        times.append((time.perf_counter() - began) * 1e3)
    return np.ascontiguousarray(made["image"]), made["x0"].copy(), times


def written(
    folder: Path, checkpoint: Checkpoint, options: CoreAIOptions, kind: "type[CoreAIOps]"
) -> Built:
    """Write a program with these operations, and compile it where that is needed."""
    from ..coreai_backend.private import compile_for_linux
    from ..coreai_backend.program import author

    built = Built(folder)
    program, _ = author(checkpoint, options.variant(), kind)
    program.save_asset(built.source(options.stage))
    if not has_framework():
        built.compiled(options.stage).mkdir()
        compile_for_linux(built.source(options.stage), built.compiled(options.stage))
    return built


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 of a difference; infinite if anything found is not finite."""
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def median_ms(work: Callable[[], object]) -> float:
    times = list[float]()
    for _ in range(COPIES):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1e3)
    return float(np.median(times))
