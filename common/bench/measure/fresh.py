"""The request for fresh frames: what a timed process renders beside what it is timed by.

The frames go through `submit` and `collect` at the depth of the timing, straight after pictures
that the process has seen, so that earlier, misplaced or remembered pictures come out as they are.
"""

import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from .requests import Bench, Request

LEAST_FRAMES = 4


@dataclass(frozen=True, slots=True)
class Fresh:
    """What came out.

    pictures: uint8 (frames, H, W, 3) RGB, in the order of their collection. frame_ms: a frame's
    share of the stream's time, as in `requests.Timed`.
    """

    pictures: np.ndarray
    frame_ms: list[float]


@dataclass(frozen=True, slots=True)
class RenderFresh(Request[Fresh]):
    """Render a clip of `scene` once.

    clip: its number. frames: of it; None for enough to fill the backend's pipeline twice.
    """

    clip: int
    frames: int | None = None

    def do(self, bench: Bench) -> Fresh:
        from .scene import clip

        backend = bench.loaded()
        depth = backend.depth
        frames = max(LEAST_FRAMES, 2 * depth) if self.frames is None else self.frames
        seen = [bench.pictures[n % len(bench.pictures)] for n in range(max(2, depth))]
        given = [*seen, *clip(bench.entrant.options.size, self.clip, frames)]
        made = np.zeros((len(given), *given[0].shape), np.uint8)
        waiting: deque[int] = deque()
        ends: list[int] = []

        def collect() -> None:
            backend.collect(made[waiting.popleft()])
            ends.append(time.perf_counter_ns())

        for number, picture in enumerate(given):
            if len(waiting) == depth:
                collect()
            backend.submit(picture)
            waiting.append(number)
        while waiting:
            collect()
        shares = [
            round((ends[n] - ends[n - depth]) / 1e6 / depth, 5)
            for n in range(len(seen), len(given))
        ]
        return Fresh(made[len(seen) :], shares)
