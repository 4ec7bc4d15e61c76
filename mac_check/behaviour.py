"""What a session meets on Core ML: images, other threads, feedback, prompts, idling, endurance."""

import threading
import time
from collections.abc import Callable

import numpy as np

from ..common.backend.memory import footprint_bytes
from ..common.picture.temporal import psnr
from ..common.prompt.text_encoder import TextEncoder
from ..coreml_backend.backend import CoreMLBackend
from ..coreml_backend.gate import MOST_PSNR_DB, probe
from .coreml import (
    NEAR_DB,
    exact_runner,
    hosted_backend,
    nearness,
    overflow,
    probe_params,
    render,
    spread,
)
from .setup import Answer, Setup

GROWTH_LIMIT_BYTES = 50_000_000  # of the second half of a soak over the first
PROMPTS = ("a pencil sketch", "neon cyberpunk city")
FEEDBACK = 0.5
FEEDBACK_FRAMES = 10
LINGER_S = 2.0  # Core ML lets go of its inputs about a second after a prediction


def loaded(setup: Setup, **more: str) -> CoreMLBackend:
    """Load the backend in this process."""
    backend = CoreMLBackend(setup.checkpoint(), setup.options(more))
    backend.load()
    return backend


def ask_image_rounding(setup: Setup) -> Answer:
    """Compare images with float32: the program rounds by itself, so levels should agree."""
    pictures = []
    for form in ("float32", "image"):
        backend = loaded(setup, input=form)
        pictures.append(render(backend, backend.checkpoint, setup.frame, 1)[0].astype(int))
        backend.close()
    off = np.abs(pictures[0] - pictures[1])
    return {
        "ok": int(off.max()) <= 1,
        "largest_difference": int(off.max()),
        "share_different": float((off > 0).mean()),
    }


def ask_gil(setup: Setup) -> Answer:
    """Measure the speed that another Python thread keeps beside predictions; no limit."""
    backend = loaded(setup)
    share = speed_kept(lambda: render(backend, backend.checkpoint, setup.frame, setup.frames))
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


def ask_feedback(setup: Setup) -> Answer:
    """Compare frames of a moving picture under feedback with the exact interpreter's."""
    checkpoint = setup.checkpoint()
    picture, encoder_hidden_states = probe(checkpoint, setup.frame)
    frames = [np.roll(picture, 4 * n, axis=1) for n in range(FEEDBACK_FRAMES)]
    runner = exact_runner(setup, checkpoint)
    runner.set_params(probe_params(checkpoint, FEEDBACK))
    exact = [runner.run(frame)[0].copy() for frame in frames]
    backend = loaded(setup)
    backend.set_conditioning(encoder_hidden_states)
    backend.set_params(probe_params(checkpoint, FEEDBACK))
    made, qualities = np.empty_like(picture), []
    for frame, expected in zip(frames, exact, strict=True):
        backend.submit(np.ascontiguousarray(frame))
        backend.collect(made)
        qualities.append(min(psnr(made, expected), MOST_PSNR_DB))
    backend.close()
    return {"ok": min(qualities) >= NEAR_DB, "psnr_db": min(qualities), "frames_db": qualities}


def ask_overflow(setup: Setup) -> Answer:
    """Let one frame overflow: float16 on this unit gives NaN or infinity, or saturates."""
    backend = loaded(setup)
    answer = overflow(backend, backend.checkpoint, setup.frame)
    backend.close()
    return answer


def ask_prompt_change(setup: Setup) -> Answer:
    """Change the prompt and change it back: each picture is the exact one's, the last the first."""
    checkpoint = setup.checkpoint()
    picture, _ = probe(checkpoint, setup.frame)
    first, second = map(TextEncoder(checkpoint).encode, PROMPTS)
    runner, backend = exact_runner(setup, checkpoint), loaded(setup)
    backend.set_params(probe_params(checkpoint))
    pictures, qualities = [], []
    for prompt in (first, second, first):
        runner.set_conditioning(prompt)
        runner.forget()
        backend.set_conditioning(prompt)
        made = np.empty_like(picture)
        backend.submit(picture)
        backend.collect(made)
        pictures.append(made)
        qualities.append(min(psnr(made, runner.run(picture)[0]), MOST_PSNR_DB))
    backend.close()
    back = int(np.abs(pictures[0].astype(int) - pictures[2]).max())
    return {
        "ok": min(qualities) >= NEAR_DB and back <= 1,
        "psnr_db": min(qualities),
        "largest_difference_after_changing_back": back,
        "prompts_differ_db": psnr(pictures[0], pictures[1]),
    }


def ask_first_frame_after_idling(setup: Setup) -> Answer:
    """Time the first frames after `idle_s` seconds without one."""
    backend = hosted_backend(checkpoint := setup.checkpoint(), setup.options())
    backend.load()
    try:
        before = render(backend, checkpoint, setup.frame, 5)[1]
        time.sleep(setup.number("idle_s", 90))
        after = render(backend, checkpoint, setup.frame, 5)[1]
    finally:
        backend.close()
    return {"ok": True, "frame_ms": spread(before[1:]), "first_ms": after[0], "then_ms": after[1:]}


def ask_idle_predictions(setup: Setup) -> Answer:
    """Predict, idle while objects are made and dropped, `times` times; close and wait.

    An input that Core ML lets go of last ends the process about a second later (coremltools#2827).
    """
    idle_s, times = setup.number("idle_s", 1.5), int(setup.number("times", 20))
    backend = loaded(setup)
    for _ in range(times):
        made = render(backend, backend.checkpoint, setup.frame, 1)[0]
        allocate_for(idle_s)
    backend.close()
    del backend
    allocate_for(LINGER_S if idle_s else 0.0)
    return {**nearness(made, setup), "times": times, "idle_s": idle_s}


def allocate_for(seconds: float) -> None:
    """Make and drop objects of the interpreter and arrays for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        held = [{"n": n, "array": np.empty(1000, np.float32)} for n in range(1000)]
        del held
        time.sleep(0.01)


def ask_soak(setup: Setup) -> Answer:
    """Render for `soak_s` in a hosted process: no crash, and steady memory."""
    checkpoint = setup.checkpoint()
    hosted = hosted_backend(checkpoint, setup.options())
    hosted.load()
    try:
        until, frames = time.monotonic() + setup.number("soak_s", 60), 0
        footprints: list[int] = []
        while time.monotonic() < until or len(footprints) < 4:
            render(hosted, checkpoint, setup.frame, 4)
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
