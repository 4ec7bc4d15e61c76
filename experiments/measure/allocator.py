"""Measure what MLX's cache of freed buffers is worth to a frame: its default limit and ours.

Run as `python -m sdxs.experiments allocator [--json PATH] [--rounds 5] [--seconds 4]`.
Each run is a process of its own, the two limits take turns, and the demo model renders the test
card. Below the limit MLX keeps a buffer for the next frame; above it the pages go back to the
system, which hands them out again one fault at a time.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...common.checkpoint.find import find
from ...common.io.sources.synthetic import Synthetic
from ...common.picture.image import to_frame_rgb
from ...common.settings import setting
from ...mlx_sdxs import backend as mlx_backend
from ...mlx_sdxs import blas
from ...mlx_sdxs.options import MlxOptions
from .. import record
from ..options import Options, result_file

SIZES = (192, 256)
LIMITS = ("default", "ours")
WARM_UP_FRAMES = 3


def measure(limit: str, size: int, seconds: float) -> dict[str, float]:
    """Render for a time in this process: ms a frame, minor page faults a frame, bytes."""
    default = mx.set_cache_limit(mlx_backend.CACHE_LIMIT_BYTES)
    if limit == "default":
        mlx_backend.CACHE_LIMIT_BYTES = default
    backend = mlx_backend.MlxBackend(find("demo", download=False), MlxOptions(size))
    backend.load()
    card, frame, picture = (
        Synthetic(size),
        np.empty((size, size, 3), np.uint8),
        np.empty((size, size, 3), np.uint8),
    )

    def render() -> float:
        to_frame_rgb(card.read(), frame)
        began = time.perf_counter()
        backend.submit(frame)
        backend.collect(picture)
        return (time.perf_counter() - began) * 1e3

    for _ in range(WARM_UP_FRAMES):
        render()
    faults, until, times = _page_faults(), time.perf_counter() + seconds, []
    while time.perf_counter() < until:
        times.append(render())
    figures = {
        "limit_bytes": mlx_backend.CACHE_LIMIT_BYTES,
        "frames": len(times),
        "median_ms": statistics.median(times),
        "page_faults_a_frame": (_page_faults() - faults) / len(times),
        "cache_bytes": backend.memory().cache_bytes,
        "peak_bytes": backend.memory().peak_bytes,
    }
    backend.close()
    return figures


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def summarised(size: int, runs: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Return each limit's medians, and its best frame time, which a busy machine spoils least."""

    def over_runs(take: Callable[[Iterable[float]], float], figure: str) -> dict[str, float]:
        return {limit: take(run[figure] for run in runs[limit]) for limit in LIMITS}

    return {
        "size": size,
        "median_ms": over_runs(statistics.median, "median_ms"),
        "best_ms": over_runs(min, "median_ms"),
        "page_faults_a_frame": over_runs(statistics.median, "page_faults_a_frame"),
        "runs": runs,
    }


@dataclass(frozen=True, slots=True)
class AllocatorOptions(Options):
    """How long, and how often."""

    json: Path | None = result_file()
    rounds: int = setting(5, "processes of each limit and size", minimum=1)
    seconds: float = setting(4.0, "rendering in each process", minimum=0, unit="s")


def run(options: AllocatorOptions) -> None:
    """Measure both limits in turns."""
    results: list[dict[str, object]] = []
    for size in SIZES:
        runs: dict[str, list[dict[str, float]]] = {limit: [] for limit in LIMITS}
        for _ in range(options.rounds):
            for limit in LIMITS:
                done = subprocess.run(
                    [sys.executable, "-m", __name__, limit, str(size), str(options.seconds)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                runs[limit].append(json.loads(done.stdout))
        results.append(summarised(size, runs))
        medians, best, faults = (
            results[-1][key] for key in ("median_ms", "best_ms", "page_faults_a_frame")
        )
        print(
            f"{size} x {size}: "
            + ", ".join(
                f"{limit} {medians[limit]:.1f} ms, at best {best[limit]:.1f}, "
                f"{faults[limit]:,.0f} page faults a frame"
                for limit in LIMITS
            ),
            flush=True,
        )
    if options.json:
        library = blas.loaded()
        figures = {
            "device": str(mx.default_device()),
            "blas": library.origin if library else "none",
            "results": results,
        }
        record.write(options.json, figures, options)


if __name__ == "__main__":  # the measured process: LIMIT SIZE SECONDS
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
