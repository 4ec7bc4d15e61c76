"""Run a long session: memory stays flat, and no thread, process or shared memory is left.

Run as `python -m sdxs.experiments soak --seconds 900 [--json PATH]`. The demo model
renders the test card in real time, first in this process, then in a child, so many seconds each,
while prompts, seed, feedback and smoothing change every second and a video is recorded. Exits with
1 if anonymous memory grew by more than 5 MB.
"""

import multiprocessing
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ...common.backend.memory import anonymous_bytes, footprint_bytes
from ...common.backend.process.hosted import HostedBackend
from ...common.backend.process.starter import begin_to_start
from ...common.backend.protocol import Backend, FrameParams
from ...common.checkpoint.find import find
from ...common.io.sinks.film import VideoFileSink
from ...common.io.sources.synthetic import Synthetic
from ...common.live.look import Look
from ...common.live.parameters import LiveParameters
from ...common.live.threads.frames import LiveFrame
from ...common.live.threads.loop import Loop, LoopOptions, Prompt
from ...common.live.viewer import Viewer
from ...common.prompt.syntax import GALLERY
from ...common.prompt.text_encoder import TextEncoder
from ...common.settings import setting
from ...mlx_sdxs.backend import MlxBackend
from ...mlx_sdxs.options import MlxOptions
from .. import record
from ..options import Options, result_file

SIZE = 64
ALLOWED_BYTES = 5_000_000
WARM_UP_SHARE = 0.25
PATIENCE_S = 30.0  # for a thread that is still ending; one that is left behind for good never does


def soak(seconds: float, hosted: bool) -> dict[str, object]:
    """Run one session and sample the memory of its processes every second."""
    begin_to_start()  # its thread stays for good
    threads, segments = set(threading.enumerate()), shared_memory_names()
    processes = set(multiprocessing.active_children())
    checkpoint, options = find("demo", download=False), MlxOptions(SIZE)
    backend: Backend = MlxBackend(checkpoint, options)
    if hosted:
        backend = HostedBackend("mlx", "sdxs.mlx_sdxs.backend:MlxBackend", checkpoint, options)
    encoder = TextEncoder(checkpoint)
    prompts = [Prompt(GALLERY[0], encoder.encode(GALLERY[0]))]
    source = Synthetic(SIZE)
    loop = Loop(
        source,
        [backend],
        LoopOptions(SIZE, skip_threshold=-1),
        prompts,
        FrameParams(),
        encoder.encode,
    )
    samples: list[tuple[float, int]] = []
    footprints: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        viewer = Viewer(
            SIZE,
            Look(),
            loop.stats,
            [VideoFileSink(Path(folder) / "soak.mp4", 30, realtime=True)],
            None,
        )
        began = time.perf_counter()

        def show(frame: LiveFrame) -> None:
            viewer.show(frame)
            elapsed = time.perf_counter() - began
            if elapsed < len(samples) + 1:
                return
            pids = [None, *([backend.pid] if isinstance(backend, HostedBackend) else [])]
            used = sum(map(anonymous_bytes, pids))
            samples.append((elapsed, used))
            footprints.append(sum(map(footprint_bytes, pids)))
            number = len(samples)
            if elapsed >= seconds:
                loop.stop()
                return
            loop.set_prompt(GALLERY[number % len(GALLERY)])
            loop.set_params(FrameParams(seed=number, feedback=0.3 * (number % 2)))
            viewer.use(LiveParameters(ema=0.5 * (number % 3 == 0)))
            if number % 60 == 0:
                print(f"{elapsed:.0f} s, {used / 1e6:.1f} MB", flush=True)

        summary = loop.run(show, lambda: None, viewer.close)
    # Too few seconds to tell.
    growth = growth_bytes(samples) if len(samples) >= 1 / WARM_UP_SHARE else None
    for thread in set(threading.enumerate()) - threads:
        thread.join(PATIENCE_S)
    left_threads = [t.name for t in set(threading.enumerate()) - threads]
    return {
        "hosted": hosted,
        "seconds": round(summary.seconds),
        "frames": summary.shown,
        "source_fps": source.fps,
        "measured_fps": summary.fps,
        "captured": summary.captured,
        "dropped": summary.dropped_before_inference + summary.dropped_before_display,
        "growth_bytes": growth,
        "median_footprint_bytes": int(np.median(footprints)),
        "median_anonymous_bytes": int(np.median([used for _, used in samples])),
        "threads_left": left_threads,
        "processes_left": len(set(multiprocessing.active_children()) - processes),
        "shared_memory_left": sorted(shared_memory_names() - segments),
        "anonymous_mb": [round(used / 1e6, 2) for _, used in samples],
    }


def growth_bytes(samples: list[tuple[float, int]]) -> int:
    """Median use of the last quarter of the session less that of the second quarter."""
    quarter = max(1, int(len(samples) * WARM_UP_SHARE))
    used = [value for _, value in samples]
    return int(np.median(used[-quarter:]) - np.median(used[quarter : 2 * quarter]))


def shared_memory_names() -> set[str]:
    """Named shared memory on this machine, where it can be listed (Linux)."""
    folder = Path("/dev/shm")
    # Only what a session could have made: other programs have segments of their own.
    return (
        {path.name for path in folder.glob("*") if path.name.startswith(("sdxs", "psm"))}
        if folder.is_dir()
        else set()
    )


@dataclass(frozen=True, slots=True)
class SoakOptions(Options):
    """How long, and in which processes."""

    seconds: float = setting(900.0, "length of each session", minimum=1, unit="s")
    mode: Literal["both", "in-process", "hosted"] = setting("both", "where the backend runs")
    json: Path | None = result_file()


def run(options: SoakOptions) -> int:
    """Run the sessions; return 1 if one grew or left something behind."""
    modes = {"both": (False, True), "in-process": (False,), "hosted": (True,)}[options.mode]
    runs = [soak(options.seconds, hosted) for hosted in modes]
    good = True
    for each in runs:
        left = [*each["threads_left"], *each["shared_memory_left"]]  # type: ignore[misc]
        growth = each["growth_bytes"]
        fine = (
            isinstance(growth, int)
            and growth <= ALLOWED_BYTES
            and not left
            and not each["processes_left"]
        )
        good = good and fine
        print(
            f"{'good' if fine else 'BAD'}: {'hosted' if each['hosted'] else 'in process'}, "
            f"{each['frames']} frames in "
            f"{each['seconds']} s ({each['measured_fps']:.1f} fps of the source's "
            f"{each['source_fps']:g}), footprint "
            f"{each['median_footprint_bytes'] / 1e6:.0f} MB, growth of anonymous memory "  # type: ignore[operator]
            f"{f'{growth / 1e6:+.2f} MB' if isinstance(growth, int) else 'unknown'}, left over: "
            f"{left or 'nothing'}"
        )
    if options.json:
        record.write(options.json, {"runs": runs}, options)
    return 0 if good else 1
