"""What only a Mac can tell, asked once: `make mac-check` there, and attach the JSON it writes.

Core ML on every compute unit and in every form of the program: how near it comes to the
interpreter in exact arithmetic, which unit runs what, how long a frame and the bridge to it take,
memory, whether images round as arrays do, whether the stage pipeline renders the same picture, how
much of Python's lock a prediction leaves to other threads, whether a soak holds its memory; MLX on
Metal in float16 against what diffusers made, and the kernel written for it. Every question is
answered by itself: one that fails is noted and the rest goes on.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..common.backend.memory import footprint_bytes
from ..common.backend.process.hosted import HostedBackend
from ..common.backend.protocol import Backend, FrameParams
from ..common.bench.measure.machine import machine
from ..common.checkpoint.find import Checkpoint, find, open_checkpoint
from ..common.errors import UsageError
from ..common.picture.temporal import psnr
from ..common.settings import parse_settings
from ..common.testing.random_checkpoint import architecture, write_checkpoint
from ..coreml_backend import compute_plan
from ..coreml_backend.backend import CoreMLBackend
from ..coreml_backend.gate import MOST_PSNR_DB, PROBE_SEED, probe
from ..coreml_backend.interpreter.interpreter import Interpreter
from ..coreml_backend.options import CoreMLOptions
from ..coreml_backend.prepare import find_or_build, warm_up
from ..coreml_backend.runner import Runner
from ..mlx_sdxs.backend import MlxBackend
from ..mlx_sdxs.fast.ops import on_gpu
from ..mlx_sdxs.options import Dtype, MlxOptions
from . import kernel as kernel_check
from .fixtures import distances, run_frame, stored_outputs, tiny_checkpoint, tiny_inputs

LOCATION = f"{CoreMLBackend.__module__}:{CoreMLBackend.__name__}"
NE_GPU_NE = "encode=ne,unet=gpu,decode=ne"
VARIANTS = (
    {"attention": "sdpa", "compute_units": "cpu_and_gpu"},
    {"attention": "sdpa", "compute_units": "all"},
    {"attention": "sdpa", "compute_units": "cpu_only"},
    {"attention": "matmul", "compute_units": "cpu_and_gpu"},
    {"attention": "split_einsum", "compute_units": "cpu_and_ne"},
    {"attention": "split_einsum", "compute_units": "all"},
    {"attention": "sdpa", "compute_units": "cpu_and_gpu", "weights": "palettize6"},
    {"attention": "split_einsum", "placement": NE_GPU_NE},
)
NEAR_DB = 35.0  # what the gate asks of a program; compressed weights are measured, not judged
METAL_LIMITS = (5e-3, 45.0)  # of float16 on Metal against diffusers: relative L2 of x0, PSNR in dB
GROWTH_LIMIT_BYTES = 50_000_000  # of the second half of a soak over the first
Answer = dict[str, object]


@dataclass(frozen=True)
class Setup:
    """One model, and how it is asked.

    runtime: 'coreml', or 'reference' for a rehearsal without a Mac.
    """

    checkpoint: Checkpoint
    size: int
    runtime: str
    soak_s: float
    frames: int

    def options(self, chosen: Mapping[str, str] | None = None) -> CoreMLOptions:
        """Core ML's options. chosen: settings as texts."""
        texts = {"runtime": self.runtime, **(chosen or {})}
        return parse_settings(CoreMLOptions, texts, "coreml", size=self.size)


def exact_picture(setup: Setup) -> np.ndarray:
    """Render the probe frame by the interpreter without rounding, as an exact reference."""
    options = CoreMLOptions(setup.size, runtime="reference")
    built = find_or_build(setup.checkpoint, options)
    runner = Runner("frame", Interpreter(built.package("frame")), setup.checkpoint, options)
    picture, encoder_hidden_states = probe(setup.checkpoint, setup.size)
    runner.set_conditioning(encoder_hidden_states)
    runner.set_params(FrameParams(PROBE_SEED))
    return runner.run(picture)[0]


def render(
    backend: Backend, setup: Setup, frames: int
) -> tuple[np.ndarray, list[float], list[float]]:
    """The probe frame `frames` times through a loaded backend, as many in flight as it takes.

    Returns the last picture, milliseconds from completion to completion, and those of the bridge.
    """
    picture, encoder_hidden_states = probe(setup.checkpoint, setup.size)
    backend.set_conditioning(encoder_hidden_states)
    backend.set_params(FrameParams(PROBE_SEED))
    out = np.empty_like(picture)
    intervals, bridges = [], []
    last = time.perf_counter()
    for number in range(frames + backend.depth - 1):
        if number < frames:
            backend.submit(picture)
        if number >= backend.depth - 1:
            bridges.append(backend.collect(out).bridge_ns / 1e6)
            now = time.perf_counter()
            intervals.append((now - last) * 1e3)
            last = now
    return out, intervals, bridges


def ask_variant(setup: Setup, chosen: dict[str, str], exact: np.ndarray) -> Answer:
    """One form of the program in a process of its own: nearness, plan, times, memory."""
    options = setup.options(chosen)
    began = time.perf_counter()
    built = find_or_build(setup.checkpoint, options)
    made = time.perf_counter()
    warm_up(setup.checkpoint, options, built, lambda step, done: None)
    prepared = time.perf_counter()
    hosted = HostedBackend("coreml", LOCATION, setup.checkpoint, options)
    hosted.load()
    try:
        loaded = time.perf_counter()
        pids = hosted.describe().process_ids
        after_load = sum(map(footprint_bytes, pids))
        picture, intervals, bridges = render(hosted, setup, setup.frames)
        quality = min(psnr(picture, exact), MOST_PSNR_DB)
        return {
            **chosen,
            "ok": quality >= NEAR_DB or options.weights != "float16",
            "psnr_db": quality,
            "build_s": made - began,
            "prepare_s": prepared - made,
            "load_s": loaded - prepared,
            "frame_ms": spread(intervals[1:]),
            "bridge_ms": spread(bridges[1:]),
            "footprint_after_load_bytes": after_load,
            "footprint_at_end_bytes": sum(map(footprint_bytes, pids)),
            "weights_error": built.record.weights_error,
            "compute_plan": [asdict(plan) for plan in compute_plan.plans(built, options)],
        }
    finally:
        hosted.close()


def ask_variants(setup: Setup) -> Answer:
    """Every form, each answered by itself."""
    exact = exact_picture(setup)
    answers = [attempt(partial(ask_variant, setup, chosen, exact), chosen) for chosen in VARIANTS]
    return {"ok": all(answer["ok"] for answer in answers), "variants": answers}


def ask_rounding(setup: Setup) -> Answer:
    """Compare images with float32: the program rounds by itself, so levels should agree."""
    pictures = []
    for form in ("float32", "image"):
        backend = CoreMLBackend(setup.checkpoint, setup.options({"input": form}))
        backend.load()
        pictures.append(render(backend, setup, 1)[0].astype(int))
        backend.close()
    off = np.abs(pictures[0] - pictures[1])
    return {
        "ok": int(off.max()) <= 1,
        "largest_difference": int(off.max()),
        "share_different": float((off > 0).mean()),
    }


def ask_gil(setup: Setup) -> Answer:
    """Measure the speed that another Python thread keeps beside predictions; no limit."""
    backend = CoreMLBackend(setup.checkpoint, setup.options())
    backend.load()
    share = speed_kept(lambda: render(backend, setup, setup.frames))
    backend.close()
    return {"ok": True, "speed_kept": share}


def speed_kept(work: Callable[[], object]) -> float:
    """Return the speed of a counting thread beside `work`, relative to an idle main thread."""
    count, stop = [0], threading.Event()

    def run() -> None:
        while not stop.is_set():
            count[0] += 1

    def rate(act: Callable[[], object]) -> float:
        began, before = time.perf_counter(), count[0]
        act()
        return (count[0] - before) / (time.perf_counter() - began)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return rate(work) / rate(lambda: time.sleep(0.5))
    finally:
        stop.set()
        thread.join()


def ask_soak(setup: Setup) -> Answer:
    """Render for `soak_s` in a hosted process: no crash (coremltools#2827), and steady memory."""
    hosted = HostedBackend("coreml", LOCATION, setup.checkpoint, setup.options())
    hosted.load()
    try:
        until, frames = time.monotonic() + setup.soak_s, 0
        footprints: list[int] = []
        while time.monotonic() < until or len(footprints) < 4:
            render(hosted, setup, 4)
            frames += 4
            footprints.append(footprint_bytes(hosted.pid))
    finally:
        hosted.close()
    half = len(footprints) // 2
    growth = float(np.mean(footprints[half:]) - np.mean(footprints[:half]))
    return {
        "ok": growth <= GROWTH_LIMIT_BYTES,
        "frames": frames,
        "growth_bytes": growth,
        "peak_bytes": max(footprints),
    }


def ask_mlx(setup: Setup) -> Answer:
    """Compare MLX with stored outputs of diffusers: x0 on this device, the picture of a session."""
    import mlx.core as mx  # here: above, it would come before MLX's BLAS

    stored, answers = stored_outputs(), []
    dtype: Dtype = "float16" if on_gpu() else "float32"
    with tempfile.TemporaryDirectory() as folder:
        for name in ("sdxs-512-0.9", "sdxs-512-dreamshaper"):
            given = open_checkpoint(tiny_checkpoint(Path(folder), name))
            inputs = tiny_inputs(given)
            ours = run_frame(given, inputs, dtype)
            relative, quality = distances(
                ours, {what: stored[f"{name}/frame/{what}"] for what in ("x0", "picture")}
            )
            good = relative < METAL_LIMITS[0] and quality > METAL_LIMITS[1]
            answers.append(
                {
                    "model": f"{name} tiny",
                    "ok": good,
                    "x0_relative_l2": relative,
                    "psnr_db": quality,
                }
            )
    backend = MlxBackend(setup.checkpoint, MlxOptions(setup.size, dtype=dtype))
    backend.load()
    picture, intervals, _ = render(backend, setup, setup.frames)
    quality = min(psnr(picture, exact_picture(setup)), MOST_PSNR_DB)
    backend.close()
    frame_ms = spread(intervals[1:])
    answers.append(
        {
            "model": setup.checkpoint.name,
            "ok": quality >= NEAR_DB,
            "psnr_db": quality,
            "frame_ms": frame_ms,
        }
    )
    good, device = all(answer["ok"] for answer in answers), str(mx.default_device())
    return {"ok": good, "device": device, "dtype": dtype, "models": answers}


def ask_kernel(setup: Setup) -> Answer:
    """The custom kernel in Metal against its twin; where it passes, `--kernels on` may be used."""
    if not on_gpu():
        return {"ok": True, "asked": False, "note": "no GPU here: nothing was compiled"}
    shapes = kernel_check.compare()
    return {"ok": all(shape["ok"] for shape in shapes), "shapes": shapes}


@dataclass(frozen=True, slots=True)
class MacCheckPlan:
    """How much is asked. runtime: as in `Setup`. size: of the demo; None for its own."""

    quick: bool
    soak_s: float
    frames: int
    runtime: str = "coreml"
    size: int | None = None


QUESTIONS: dict[str, Callable[[Setup], Answer]] = {
    "core ml": ask_variants,
    "image rounding": ask_rounding,
    "gil": ask_gil,
    "soak": ask_soak,
    "mlx": ask_mlx,
    "kernel": ask_kernel,
}


def attempt(ask: Callable[[], Answer], facts: Mapping[str, object] | None = None) -> Answer:
    """An answer, or what went wrong on the way to it."""
    try:
        return ask()
    except Exception as error:  # whatever it is, it is the answer, and the other questions go on
        return {**(facts or {}), "ok": False, "error": f"{type(error).__name__}: {error}"}


def run(setup: Setup, say: Callable[[str], None]) -> dict[str, Answer]:
    """Ask everything about one model."""
    answers = {}
    for name, ask in QUESTIONS.items():
        began = time.perf_counter()
        answers[name] = attempt(partial(ask, setup)) | {"seconds": time.perf_counter() - began}
        verdict = "ok" if answers[name]["ok"] else f"FAILED {answers[name].get('error', '')}"
        say(f"{setup.checkpoint.name} at {setup.size}, {name}: {verdict}")
    return answers


def spread(values: list[float]) -> dict[str, float]:
    """p50, p95 and count of a series in ms; empty without one."""
    if not values:
        return {}
    return {
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
        "count": len(values),
    }


def environment() -> dict[str, object]:
    """The machine, and the version of every package by its name."""
    here = machine()
    facts = asdict(here)
    del facts["versions"]
    return facts | here.versions


def refuse_elsewhere(runtime: str) -> None:
    """Raise UsageError where there is no Core ML to ask."""
    if runtime == "coreml" and sys.platform != "darwin":
        raise UsageError(
            "mac-check asks Core ML and Metal what only they can tell, so it needs macOS; run it "
            "on a Mac"
        )


def ask_all(plan: MacCheckPlan, say: Callable[[str], None]) -> dict[str, object]:
    """Ask everything about the demo and, unless `quick`, SDXS-0.9 in full size; the JSON's content.

    say: takes one line for each answer. Raises SdxsError where there is nothing to ask.
    """
    refuse_elsewhere(plan.runtime)
    stored_outputs()  # raises now, not after minutes of other questions
    demo = find("demo", download=False)
    setups = [Setup(demo, plan.size or demo.frame.size, plan.runtime, plan.soak_s, plan.frames)]
    models: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        if not plan.quick:
            full = open_checkpoint(
                write_checkpoint(Path(folder) / "sdxs-512-0.9-random", architecture("sdxs-512-0.9"))
            )
            setups.append(Setup(full, full.frame.size, plan.runtime, plan.soak_s, plan.frames))
        for setup in setups:
            models[setup.checkpoint.name] = {"size": setup.size, **run(setup, say)}
    return {
        "schema": 1,
        "environment": environment(),
        "models": models,
        "rehearsal": "by the reference interpreter, NOT Core ML: no figure here is one of a Mac"
        if plan.runtime == "reference"
        else None,
    }


def all_good(content: dict[str, object]) -> bool:
    """Whether every question of every model was answered as it should be."""
    models = content["models"]
    assert isinstance(models, dict)
    return all(model[question]["ok"] for model in models.values() for question in QUESTIONS)
