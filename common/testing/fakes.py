"""Fakes with known timing, to measure and test the live loop without a model or a camera.

A fake backend returns its input after a given time, spent in a given way. It implements the Backend
protocol and is built like any backend, `made(checkpoint, options)`, so it can also run in a child
process.
"""

import ctypes
import queue
import threading
import time
import zlib
from collections import deque

import numpy as np

from ..backend.description import Description
from ..backend.options import BackendOptions
from ..backend.protocol import (
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_frame,
)
from ..errors import BackendError
from ..io.sources.synthetic import Synthetic
from ..picture.size import Size

BACKEND_MS = 25.0


class FakeBackend:
    """Return the input frame after `_spend`, which a subclass implements."""

    name = "fake"
    depth = 1

    def __init__(self, checkpoint: object, options: BackendOptions, ms: float = BACKEND_MS) -> None:
        self._shape = (*options.size.shape, 3)
        self._ms = ms
        self._frames: deque[tuple[np.ndarray, int]] = deque()

    def load(self) -> None:
        self._frames.clear()

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        check_conditioning(encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        pass

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        check_frame(frame, self._shape)
        self._frames.append((frame, time.perf_counter_ns()))

    def collect(self, out: np.ndarray) -> StageTimes:
        if not self._frames:
            raise BackendError(f"{self.name}: collect() without a submitted frame")
        frame, began = self._frames.popleft()
        self._spend(began + round(self._ms * 1e6))
        np.copyto(out, frame)
        return StageTimes(time.perf_counter_ns() - began)

    def _spend(self, until_ns: int) -> None:
        raise NotImplementedError  # a subclass defines the kind of load

    def memory(self) -> MemoryUse:
        return MemoryUse(0, 0, 0, 0)

    def describe(self) -> Description:
        return Description(self.name, "none", "uint8", (("ms", f"{self._ms:g}"),))

    def close(self) -> None:
        self._frames.clear()


class SleepingBackend(FakeBackend):
    """Sleep, like a wait for a GPU: uses neither the CPU nor the GIL."""

    name = "sleeping"

    def _spend(self, until_ns: int) -> None:
        time.sleep(max(0.0, (until_ns - time.perf_counter_ns()) / 1e9))


class ComputingBackend(FakeBackend):
    """Compute on one core without the GIL, in pieces of about 0.1 ms."""

    name = "computing"

    def _spend(self, until_ns: int) -> None:
        noise = np.random.default_rng(0).integers(0, 256, 1 << 17, dtype=np.uint8).tobytes()
        while time.perf_counter_ns() < until_ns:
            zlib.crc32(noise)


class GilBackend(FakeBackend):
    """Hold the GIL for the whole call, like Core ML's Python bridge."""

    name = "gil"

    def _spend(self, until_ns: int) -> None:
        library = ctypes.PyDLL(None)  # unlike CDLL, its calls hold the GIL
        library.usleep(max(0, (until_ns - time.perf_counter_ns()) // 1000))


class StagedBackend(FakeBackend):
    """Run a pipeline: each stage is a thread that spends a fixed time on each frame."""

    name = "staged"
    stages_ms = (5.0, 24.4, 5.0)
    depth = 3

    def load(self) -> None:
        super().load()
        self._queues: list[queue.SimpleQueue[object]] = [
            queue.SimpleQueue() for _ in range(len(self.stages_ms) + 1)
        ]
        for number, ms in enumerate(self.stages_ms):
            work = (self._queues[number], self._queues[number + 1], ms)
            threading.Thread(
                target=_run_stage, args=work, daemon=True, name=f"stage-{number}"
            ).start()

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        super().submit(frame, edges)
        self._queues[0].put(frame)

    def collect(self, out: np.ndarray) -> StageTimes:
        if not self._frames:
            raise BackendError(f"{self.name}: collect() without a submitted frame")
        self._queues[-1].get()
        frame, began = self._frames.popleft()
        np.copyto(out, frame)
        return StageTimes(time.perf_counter_ns() - began)

    def close(self) -> None:
        super().close()
        if hasattr(self, "_queues"):
            self._queues[0].put(None)


def _run_stage(
    taken: "queue.SimpleQueue[object]", given: "queue.SimpleQueue[object]", ms: float
) -> None:
    while (item := taken.get()) is not None:
        time.sleep(ms / 1000)
        given.put(item)
    given.put(None)


class TickingCamera:
    """Simulate a camera of a fixed rate; a late reader misses frames.

    `read` waits for the next tick and returns its frame. The picture shows the frame's number, and
    `taken_ns[number]` is its capture time. A sink can thus measure the age of a picture
    independently of the loop's stamps. pre_ms: work per read on the reader's thread.
    """

    length = None
    paced = False

    def __init__(self, size: Size, fps: float = 60.0, pre_ms: float = 0.0) -> None:
        self.name = f"fake camera, {fps:g} fps"
        self.fps = fps
        self.taken_ns: dict[int, int] = {}
        self._cards = [Synthetic(size)]
        self._pre_s = pre_ms / 1000
        self._interval_ns = round(1e9 / fps)
        self._began_ns = time.perf_counter_ns()
        self._last_tick = -1
        self._number = 0

    def read(self) -> np.ndarray:
        tick = max(
            self._last_tick + 1, (time.perf_counter_ns() - self._began_ns) // self._interval_ns
        )
        wait_ns = self._began_ns + tick * self._interval_ns - time.perf_counter_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        self._last_tick = tick
        self.taken_ns[self._number] = self._began_ns + tick * self._interval_ns
        self._number += 1
        picture = self._cards[0].read()
        if self._pre_s:
            time.sleep(self._pre_s)
        return picture

    def close(self) -> None:
        pass


class CountingSink:
    """Read the number in each shown picture and record the picture's age.

    post_ms: work per picture on the display thread.
    """

    def __init__(self, camera: TickingCamera, post_ms: float = 0.0) -> None:
        from ..io.sources.synthetic import read_counter

        self._read_counter = read_counter
        self._camera = camera
        self._post_s = post_ms / 1000
        self.numbers: list[int] = []
        self.ages_ms: list[float] = []
        self.shown_ns: list[int] = []

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        if self._post_s:
            time.sleep(self._post_s)
        number = self._read_counter(picture)
        now = time.perf_counter_ns()
        self.numbers.append(number)
        self.ages_ms.append((now - self._camera.taken_ns[number]) / 1e6)
        self.shown_ns.append(now)

    def close(self) -> None:
        pass
