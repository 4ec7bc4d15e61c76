"""Measure what a new prompt costs a running session, and how smooth its transition is.

`python -m sdxs.experiments prompt-change [--json PATH] [--seconds 15] [--rounds 2]`. The
same session with one prompt throughout, with a new prompt every second, and with transitions of
half a second between them; every new text is one that no cache knows, so it is really encoded,
beside the running inference. Then a still picture is rendered along the way between styles, and
the steps between neighbouring outputs are measured.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from ...common.backend.options import BackendOptions
from ...common.backend.protocol import Backend, FrameParams
from ...common.checkpoint.find import Checkpoint, find
from ...common.io.sources.film import VideoFile
from ...common.live.threads.frames import LiveFrame
from ...common.live.threads.loop import Loop, LoopOptions, Prompt
from ...common.picture.image import to_frame_rgb
from ...common.prompt.blend import Slerp
from ...common.prompt.syntax import GALLERY
from ...common.prompt.text_encoder import TextEncoder
from ...common.settings import setting
from ...common.testing.fakes import SleepingBackend, TickingCamera
from ...mlx_sdxs.backend import MlxBackend
from ...mlx_sdxs.options import MlxOptions
from .. import record
from ..options import Options, result_file

SIZE = 64
PATH_SIZE = 192
STEPS = 40
WARM_UP_S = 1.0
CASES: dict[str, tuple[bool, float]] = {  # whether prompts change, and over how many seconds
    "one prompt": (False, 0.0),
    "a new prompt every second": (True, 0.0),
    "with transitions of 0.5 s": (True, 0.5),
}
BACKENDS: dict[str, tuple[Callable[[Checkpoint], Backend], float]] = {
    "25 ms sleeping, 30 fps camera": (lambda _: SleepingBackend(None, BackendOptions(SIZE)), 30.0),
    "demo in MLX, 10 fps camera": (
        lambda checkpoint: MlxBackend(checkpoint, MlxOptions(SIZE)),
        10.0,
    ),
}


def measure(checkpoint: Checkpoint, backend: str, case: str, seconds: float) -> dict[str, object]:
    """One session; drops and gaps after the first second."""
    changes, transition_s = CASES[case]
    make, fps = BACKENDS[backend]
    camera, encoder = TickingCamera(SIZE, fps), TextEncoder(checkpoint)
    first = Prompt(GALLERY[0], encoder.encode(GALLERY[0]))
    settings = LoopOptions(SIZE, skip_threshold=-1, transition_s=transition_s)
    loop = Loop(camera, [make(checkpoint)], settings, [first], FrameParams(), encoder.encode)
    shown: list[int] = []
    prompts: set[str] = set()
    dropped_before = 0

    def show(frame: LiveFrame) -> None:
        nonlocal dropped_before
        now = time.perf_counter_ns()
        elapsed = (now - shown[0]) / 1e9 if shown else 0.0
        if elapsed < WARM_UP_S:
            dropped_before = loop._captured.dropped + loop._rendered.dropped
        due = int(elapsed)
        if changes and len(sent) < due:
            sent.append(f"{GALLERY[due % len(GALLERY)]}, take {time.time_ns()}")
            loop.set_prompt(sent[-1])
        shown.append(now)
        prompts.add(frame.prompt)
        if elapsed >= seconds + WARM_UP_S:
            loop.stop()

    sent: list[str] = []
    summary = loop.run(show, lambda: None, lambda: None)
    gaps = np.diff([at for at in shown if at - shown[0] >= WARM_UP_S * 1e9]) / 1e6
    return {
        "backend": backend,
        "case": case,
        "frames": summary.shown,
        "prompts_shown": len(prompts),
        "prompts_sent": len(sent),
        "dropped": summary.dropped_before_inference
        + summary.dropped_before_display
        - dropped_before,
        "gap_ms": {
            "p50": float(np.median(gaps)),
            "p99": float(np.percentile(gaps, 99)),
            "max": float(gaps.max()),
        },
    }


def path_figures(checkpoint: Checkpoint, clip: Path) -> dict[str, object]:
    """Measure steps between neighbouring outputs along the way between five styles."""
    picture = np.empty((PATH_SIZE, PATH_SIZE, 3), np.uint8)
    source = VideoFile(clip)
    first = source.read()
    assert first is not None
    to_frame_rgb(first, picture)
    source.close()
    backend, encoder = MlxBackend(checkpoint, MlxOptions(PATH_SIZE)), TextEncoder(checkpoint)
    backend.load()

    def render(encoder_hidden_states: np.ndarray) -> np.ndarray:
        out = np.empty_like(picture)
        backend.set_conditioning(encoder_hidden_states)
        backend.submit(picture)
        backend.collect(out)
        return out.astype(np.float32)

    ways = []
    for one, other in combinations(GALLERY[:5], 2):
        a, b = encoder.encode(one), encoder.encode(other)
        for name, way in (
            ("slerp", Slerp(a, b)),
            ("at once", lambda t, a=a, b=b: a if t < 0.5 else b),
        ):
            outputs = [render(way(t)) for t in np.linspace(0, 1, STEPS + 1)]
            steps = [float(np.abs(x - y).mean()) for x, y in pairwise(outputs)]
            whole = float(np.abs(outputs[0] - outputs[-1]).mean())
            ways.append(
                {
                    "from": one,
                    "to": other,
                    "way": name,
                    "whole": whole,
                    "largest_step": max(steps),
                    "largest_step_share": max(steps) / whole,
                    "even_step_share": 1 / STEPS,
                }
            )
    backend.close()
    worst = max(w["largest_step_share"] for w in ways if w["way"] == "slerp")  # type: ignore[type-var]
    return {"size": PATH_SIZE, "steps": STEPS, "worst_largest_step_share": worst, "ways": ways}


@dataclass(frozen=True, slots=True)
class PromptChangeOptions(Options):
    """How long, and how often."""

    json: Path | None = result_file()
    seconds: float = setting(15.0, "length of each session", minimum=1, unit="s")
    rounds: int = setting(2, "times that each session is run, in turns", minimum=1)


def run(options: PromptChangeOptions) -> None:
    """Measure the sessions, then the way between styles."""
    checkpoint = find("demo", download=False)
    runs = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for _ in range(options.rounds):
            for backend in BACKENDS:
                for case in CASES:
                    found = measure(checkpoint, backend, case, options.seconds)
                    runs.append(found)
                    print(
                        {key: value for key, value in found.items() if key != "transition_s"},
                        flush=True,
                    )
        path = path_figures(checkpoint, Path(__file__).parents[2] / "docs" / "demo" / "clip.mp4")
    print(
        f"largest step of a slerp: {path['worst_largest_step_share']:.3f} of the whole change; "
        f"even steps: {1 / STEPS:.3f}"
    )
    if options.json:
        figures = {"seconds": options.seconds, "runs": runs, "path": path}
        record.write(options.json, figures, options)
