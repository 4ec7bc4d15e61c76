"""Measure edges: shimmer on a still, noisy clip, response to motion, and cost.

`python -m sdxs.experiments edges [--json PATH]`. Canny and soft, with and without memory of
the last frame. Still: the demo clip's first frame with Gaussian noise of 5 levels. Moving: the
clip itself, and the same noise. Cost: OpenCV as the capture thread runs it, one core, beside the
soft edges as an MLX graph.
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...common.io.sources.film import VideoFile
from ...common.picture.edges import (
    CANNY,
    COARSE,
    FINE,
    KINDS,
    SOFT_BRIGHT,
    SOFT_DARK,
    Edges,
    f_score,
)
from ...common.picture.image import to_frame_rgb
from ...common.picture.opencv import cv2
from .. import record
from ..options import Options, result_file

SIZE = 512
SIGMA = 5.0
STILL_FRAMES, WARM_UP = 40, 8
CLIP = Path(__file__).parents[2] / "docs" / "demo" / "clip.mp4"


def clip_frames() -> list[np.ndarray]:
    """Every frame of the demo clip, uint8 (S, S, 3) RGB."""
    source, frames = VideoFile(CLIP), []
    while (picture := source.read()) is not None:
        frames.append(np.empty((SIZE, SIZE, 3), np.uint8))
        to_frame_rgb(picture, frames[-1])
    source.close()
    return frames


def noisy(picture: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.Generator(np.random.PCG64(seed)).normal(0, SIGMA, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def draw_all(kind: str, memory: bool, frames: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """The edges of every frame, and the median milliseconds one took."""
    edges, drawn, times = Edges(kind, SIZE, memory), [], []
    for frame in frames:
        out = np.empty((SIZE, SIZE), np.uint8)
        began = time.perf_counter()
        edges.draw(frame, out)
        times.append(1e3 * (time.perf_counter() - began))
        drawn.append(out)
    return drawn, float(np.median(times))


def canny_of(picture: np.ndarray) -> np.ndarray:
    return cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), *CANNY)


def measure(kind: str, memory: bool, clean: list[np.ndarray]) -> dict[str, object]:
    """Figures of one kind."""
    still, ms = draw_all(kind, memory, [noisy(clean[0], seed) for seed in range(STILL_FRAMES)])
    lines = [picture > 127 for picture in still[WARM_UP:]]
    moving, _ = draw_all(kind, memory, [noisy(frame, 100 + n) for n, frame in enumerate(clean)])
    follows = [f_score(found, canny_of(frame)) for found, frame in zip(moving, clean, strict=True)]
    return {
        "edges": kind,
        "memory": memory,
        "shimmer": float(np.mean([(a != b).sum() / b.sum() for a, b in pairwise(lines)])),
        "mean_change_levels": float(
            np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairwise(still[WARM_UP:])])
        ),
        "share_of_pixels": float(np.mean(lines)),
        "still_f_score": f_score(still[-1], canny_of(clean[0])),
        "moving_f_score": float(np.mean(follows[WARM_UP:])),
        "moving_f_score_least": float(np.min(follows[WARM_UP:])),
        "opencv_ms": ms,
    }


def graph_ms(picture: np.ndarray, repeats: int = 15) -> float:
    """Time the soft edges, without memory, as an MLX graph on the default device."""

    def blur(x: mx.array, sigma: float) -> mx.array:
        reach = round(3 * sigma)
        taps = mx.exp(-0.5 * (mx.arange(-reach, reach + 1) / sigma) ** 2)
        taps = taps / taps.sum()
        x = mx.conv2d(x, taps.reshape(1, -1, 1, 1), padding=(reach, 0))
        return mx.conv2d(x, taps.reshape(1, 1, -1, 1), padding=(0, reach))

    sobel = mx.array(
        [[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]],
        dtype=mx.float32,
    )[..., None]

    def gradient(x: mx.array) -> mx.array:
        return mx.abs(mx.conv2d(x, sobel, padding=1)).sum(axis=-1, keepdims=True) / 2

    def soft(rgb: mx.array) -> mx.array:
        grey = (rgb.astype(mx.float32) * mx.array([0.299, 0.587, 0.114])).sum(axis=-1)[
            None, ..., None
        ]
        half = grey.reshape(1, SIZE // 2, 2, SIZE // 2, 2, 1).mean(axis=(2, 4))
        coarse = mx.repeat(mx.repeat(gradient(blur(half, COARSE / 2)), 2, axis=1), 2, axis=2)
        ramp = mx.clip(
            (mx.minimum(gradient(blur(grey, FINE)), coarse) - SOFT_DARK)
            / (SOFT_BRIGHT - SOFT_DARK),
            0,
            1,
        )
        return (255 * ramp * ramp * (3 - 2 * ramp)).astype(mx.uint8)

    given, times = mx.array(picture), []
    for _ in range(repeats):
        began = time.perf_counter()
        mx.eval(soft(given))
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times))


@dataclass(frozen=True, slots=True)
class EdgesOptions(Options):
    """Where the figures go."""

    json: Path | None = result_file()


def run(options: EdgesOptions) -> None:
    """Measure both kinds of edges, with and without memory."""
    cv2.setNumThreads(1)
    clean = clip_frames()
    rows = [measure(kind, memory, clean) for kind in KINDS for memory in (False, True)]
    for row in rows:
        print(
            {
                key: round(value, 4) if isinstance(value, float) else value
                for key, value in row.items()
            }
        )
    graph = graph_ms(clean[0])
    print(f"soft edges without memory as an MLX graph on {mx.default_device()}: {graph:.1f} ms")
    if options.json:
        figures = {
            "device": str(mx.default_device()),
            "size": SIZE,
            "noise_sigma": SIGMA,
            "clip": CLIP.name,
            "edges": rows,
            "soft_in_mlx_graph_ms": graph,
        }
        record.write(options.json, figures, options)
