"""Measure around a backend with the loop's own code: bytes copied per frame, time before and after.

Imported in a worker after its backend, because it brings OpenCV along.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from ...backend import copies
from ...backend.description import Description
from ...backend.identity import IdentityBackend
from ...backend.options import BackendOptions
from ...backend.process.hosted import HostedBackend
from ...backend.protocol import Backend, FrameParams, MemoryUse, StageTimes
from ...io.sinks.film import VideoFileSink
from ...live.look import Look
from ...live.threads.loop import Loop, LoopOptions, Prompt
from ...live.viewer import Viewer
from ...picture.image import to_frame_rgb
from ...picture.opencv import cv2
from ...picture.size import FrameSize, Size
from ...picture.temporal import Smoother

CAMERA_SHAPE = (720, 1280, 3)
EMA, BLEND = 0.6, 0.2

T = TypeVar("T")


class StillCamera:
    """A source like a camera: new pictures in new memory, uint8 (720, 1280, 3) BGR."""

    name = "camera of 1280 x 720"
    fps = 30.0
    length: int | None = None
    paced = False

    def __init__(self, shape: tuple[int, ...] = CAMERA_SHAPE) -> None:
        self._scene = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self._number = 0

    def read(self) -> np.ndarray:
        self._number += 1
        picture = np.roll(self._scene, self._number, axis=1)
        copies.count("source", picture.nbytes)
        return picture

    def close(self) -> None:
        pass  # holds nothing


class LentBackend:
    """A loaded backend on loan to a loop: the loading thread carries out every call."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.depth = backend.name, backend.depth
        self._backend = backend
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def serve_until(self, done: Callable[[], object]) -> None:
        """Run `done` in another thread, its calls on this one. Raises what it raises."""
        result: Future[object] = Future()

        def work() -> None:
            try:
                result.set_result(done())
            except BaseException as error:  # handed to the thread that waits below
                result.set_exception(error)
            finally:
                self._calls.put(None)

        thread = threading.Thread(target=work, name="sdxs-bench-loop")
        thread.start()
        while (call := self._calls.get()) is not None:
            call()
        thread.join()
        result.result()

    def _do(self, function: Callable[[], T]) -> T:
        result: Future[T] = Future()

        def call() -> None:
            try:
                result.set_result(function())
            except BaseException as error:  # raised where the call was made
                result.set_exception(error)

        self._calls.put(call)
        return result.result()

    def load(self) -> None:
        pass  # it is loaded, and stays so

    def close(self) -> None:
        pass

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._do(lambda: self._backend.set_conditioning(encoder_hidden_states))

    def set_params(self, params: FrameParams) -> None:
        self._do(lambda: self._backend.set_params(params))

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._do(lambda: self._backend.submit(frame, edges))

    def collect(self, out: np.ndarray) -> StageTimes:
        return self._do(lambda: self._backend.collect(out))

    def memory(self) -> MemoryUse:
        return MemoryUse(0, 0, 0, 0)  # the loop asks for a sign of life, from other threads too

    def describe(self) -> Description:
        return self._backend.describe()


def count_copies(
    backend: Backend, size: Size, encoder_hidden_states: np.ndarray, seed: int, frames: int
) -> dict[str, float]:
    """Bytes that are copied for each frame of a live session into a video file, by hand.

    The loop with its threads as `sdxs live` runs it, from a camera of 1280 x 720, every frame
    rendered.
    """
    settings = LoopOptions(FrameSize.of(size), frames=frames, realtime=False)
    prompt = Prompt("", encoder_hidden_states)
    lent = LentBackend(backend)
    loop = Loop(
        StillCamera(),
        [lent],
        settings,
        [prompt],
        FrameParams(seed),
        lambda _: encoder_hidden_states,
    )
    with tempfile.TemporaryDirectory() as folder:
        viewer = Viewer(
            size, Look(), loop.stats, [VideoFileSink(Path(folder) / "copies.avi", 30.0)], None
        )
        copies.take()
        lent.serve_until(lambda: loop.run(viewer.show, lambda: None, viewer.close))
    assert loop.summary is not None
    return {hand: total / loop.summary.shown for hand, total in sorted(copies.take().items())}


def profile_surroundings(size: Size, frames: int) -> dict[str, list[float]]:
    """Time pre (crop, resize, RGB), post (smoothing, blend, BGR) and hosting, in ms.

    hosting: what a process of its own adds to a frame, there and back, measured with a backend
    that does nothing.
    """
    camera, smoother, size = StillCamera(), Smoother(size), FrameSize.of(size)
    frame, picture = np.empty((*size.shape, 3), np.uint8), np.empty((*size.shape, 3), np.uint8)
    times: dict[str, list[float]] = {"pre": [], "post": [], "hosting": []}
    hosted = HostedBackend(
        "identity", f"{IdentityBackend.__module__}:IdentityBackend", None, BackendOptions(size)
    )
    hosted.load()
    try:
        for number in range(frames + 2):
            taken = camera.read()
            stamps = [time.perf_counter_ns()]
            to_frame_rgb(taken, frame)
            stamps.append(time.perf_counter_ns())
            hosted.submit(frame)
            inside_ns = hosted.collect(picture).total_ns
            stamps.append(time.perf_counter_ns())
            smoother.apply(picture, frame, EMA, BLEND)
            cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            stamps.append(time.perf_counter_ns())
            if number >= 2:
                pre, hosting, post = np.diff(stamps) / 1e6
                times["pre"].append(float(pre))
                times["hosting"].append(float(hosting) - inside_ns / 1e6)
                times["post"].append(float(post))
    finally:
        hosted.close()
    return times
