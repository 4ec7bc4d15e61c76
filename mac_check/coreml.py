"""Core ML in every form of the program, on every unit: nearness, times, memory, compute plan."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from ..common.backend.memory import footprint_bytes
from ..common.backend.process.hosted import HostedBackend
from ..common.backend.protocol import Backend, FrameParams
from ..common.checkpoint.find import Checkpoint
from ..common.errors import PictureError
from ..common.picture.size import Size
from ..common.picture.temporal import psnr
from ..common.settings import parse_settings
from ..coreml_backend.backend import CoreMLBackend, controlled
from ..coreml_backend.cache import Built
from ..coreml_backend.gate import MOST_PSNR_DB, PROBE_SEED, probe, probe_edges
from ..coreml_backend.interpreter.interpreter import Interpreter
from ..coreml_backend.options import CoreMLOptions
from ..coreml_backend.prepare import find_or_build, plan_summaries, warm_up
from ..coreml_backend.runner import Runner
from .setup import Answer, Setup

if TYPE_CHECKING:
    from ..coreml_backend.options import Stage

LOCATION = f"{CoreMLBackend.__module__}:{CoreMLBackend.__name__}"
OVERFLOWS = 3e38  # as an encoder hidden state: finite in float32, and no sum of it is
NEAR_DB = 35.0  # what the gate asks of a program; compressed weights are measured, not judged
MOST_S = 30.0  # of one timing: SDXS at 512 takes seconds a frame on a CPU


def probe_params(checkpoint: Checkpoint, feedback: float = 0.0) -> FrameParams:
    """Return the probe frame's parameters, with control if there is a ControlNet."""
    scale = 1.0 if checkpoint.control else 0.0
    return FrameParams(PROBE_SEED, feedback, control_scale=scale)


def exact_runner(setup: Setup, checkpoint: Checkpoint) -> Runner:
    """Open the program on the interpreter without rounding, with the prompt of the probe frame."""
    stage: Stage = "controlled" if checkpoint.control else "frame"
    attention = {"attention": setup.chosen.get("attention", "matmul")}
    texts = {"runtime": "reference", **attention}
    options = parse_settings(CoreMLOptions, texts, "coreml", size=setup.frame)
    options = controlled(options) if checkpoint.control else options
    built = find_or_build(checkpoint, options)
    runner = Runner(stage, Interpreter(built.package(stage)), checkpoint, options)
    runner.set_conditioning(probe(checkpoint, setup.frame)[1])
    runner.set_params(probe_params(checkpoint))
    return runner


def ask_exact(setup: Setup) -> Answer:
    """Save the probe frame of the interpreter without rounding, for later questions."""
    checkpoint = setup.checkpoint()
    runner = exact_runner(setup, checkpoint)
    picture, _ = probe(checkpoint, setup.frame)
    made, _ = runner.run(picture, probe_edges(picture) if checkpoint.control else None)
    np.save(setup.exact_path, made)
    return {"ok": True}


def hosted_backend(checkpoint: Checkpoint, options: CoreMLOptions) -> HostedBackend:
    """Return the backend in a process of its own, as a session has it; not loaded yet."""
    return HostedBackend("coreml", LOCATION, checkpoint, options)


def overflow(backend: Backend, checkpoint: Checkpoint, size: Size) -> Answer:
    """Let one frame overflow under feedback: is it noticed, and is the next as if it never was?"""
    picture, encoder_hidden_states = probe(checkpoint, size)
    backend.set_params(probe_params(checkpoint, 0.5))
    made, noticed = [], list[str]()
    too_large = np.copysign(np.float32(OVERFLOWS), encoder_hidden_states)
    for given in (encoder_hidden_states, too_large, encoder_hidden_states):
        backend.set_conditioning(given)
        made.append(np.empty_like(picture))
        backend.submit(picture)
        try:
            backend.collect(made[-1])
        except PictureError as error:
            noticed.append(str(error))
    off = int(np.abs(made[0].astype(int) - made[-1]).max())
    return {"ok": len(noticed) == 1 and off <= 1, "noticed": noticed, "largest_difference": off}


def render(
    backend: Backend, checkpoint: Checkpoint, size: Size, frames: int
) -> tuple[np.ndarray, list[float], list[float]]:
    """Render the probe frame `frames` times, fewer after MOST_S, as many in flight as it takes.

    Returns the last picture, milliseconds from completion to completion, and those of the bridge.
    """
    picture, encoder_hidden_states = probe(checkpoint, size)
    edges = probe_edges(picture) if checkpoint.control else None
    backend.set_conditioning(encoder_hidden_states)
    backend.set_params(probe_params(checkpoint))
    out = np.empty_like(picture)
    intervals, bridges = list[float](), list[float]()
    began = last = time.perf_counter()
    submitted = 0
    while True:
        late = submitted >= 2 and last - began > MOST_S
        if submitted < frames and not late:
            backend.submit(picture, edges)
            submitted += 1
            if submitted - len(intervals) < backend.depth:
                continue
        elif submitted == len(intervals):
            return out, intervals, bridges
        bridges.append(backend.collect(out).bridge_ns / 1e6)
        now = time.perf_counter()
        intervals.append((now - last) * 1e3)
        last = now


def ask_variant(setup: Setup) -> Answer:
    """One form of the program in a process of its own: nearness, plan, times, memory."""
    checkpoint, options = setup.checkpoint(), setup.options()
    forms = [options, *([controlled(options)] if checkpoint.control else [])]
    built = [find_or_build(checkpoint, form) for form in forms]
    found = time.perf_counter()
    for form, folder in zip(forms, built, strict=True):
        warm_up(checkpoint, form, folder, lambda step, done: None)
    prepared = time.perf_counter()
    hosted = hosted_backend(checkpoint, options)
    hosted.load()
    try:
        loaded = time.perf_counter()
        pids = hosted.describe().process_ids
        after_load = sum(map(footprint_bytes, pids))
        picture, intervals, bridges = render(hosted, checkpoint, setup.frame, setup.frames)
        answer: Answer = {
            **nearness(picture, setup, options.weights != "float16"),
            "build_s": built[-1].record.seconds,
            "prepare_s": prepared - found,
            "load_s": loaded - prepared,
            "frame_ms": spread(intervals[1:]),
            "bridge_ms": spread(bridges[1:]),
            # memory of the Neural Engine is another process's, and not in these
            "footprint_after_load_bytes": after_load,
            "footprint_at_end_bytes": sum(map(footprint_bytes, pids)),
            "weights_error": built[-1].record.weights_error,
        }
    finally:
        hosted.close()
    return answer | plan_of(built[-1], forms[-1])


def plan_of(built: Built, options: CoreMLOptions) -> Answer:
    """Return the compute plan; an error of it, or the end of its process, costs no other figure."""
    try:
        plans = plan_summaries(built, options)
    except Exception as error:  # macOS before 14.4 has none
        return {"compute_plan": None, "compute_plan_error": f"{type(error).__name__}: {error}"}
    return {"compute_plan": [asdict(plan) for plan in plans]}


def nearness(picture: np.ndarray, setup: Setup, compressed: bool = False) -> Answer:
    """Compare a picture with the exact one. Compressed weights are measured and not judged."""
    exact = setup.exact()
    if exact is None:
        return {"ok": False, "psnr_db": None, "error": "no exact picture to compare with"}
    quality = min(psnr(picture, exact), MOST_PSNR_DB)
    return {"ok": quality >= NEAR_DB or compressed, "psnr_db": quality}


def spread(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and count of a series in ms; empty without one."""
    if not values:
        return {}
    return {
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
        "count": len(values),
    }
