"""Run consecutive stages of a frame in this process: one section of the pipeline.

Satisfies the Backend protocol, except that input and output may be latents, float32
(1, C, H/8, W/8), instead of pictures. `common.backend.process.hosted` can host it as well.
"""

import time
from collections import deque

import numpy as np

from ..common.backend import copies
from ..common.backend.description import Description
from ..common.backend.home import Home
from ..common.backend.process.shared_frames import Plane
from ..common.backend.protocol import (
    Backend,
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_edges,
)
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError, PictureError
from ..common.picture.size import FrameSize
from . import cache
from .options import CoreMLOptions
from .prepare import find_or_build, refuse_without_runtime
from .runner import GIVES, TAKES, Runner, open_runner

STAND_IN = "reference interpreter, NOT Core ML"


class StagesBackend:
    """A backend that runs consecutive `CoreMLOptions.stages` inside `submit`."""

    name = "coreml"
    depth = 1

    def __init__(self, checkpoint: Checkpoint, options: CoreMLOptions) -> None:
        """Choose the stages: those of `options.section`, or all."""
        self.options = options
        self.stages = options.section or options.stages
        self._checkpoint = checkpoint
        self._runners: list[Runner] = []
        self._done: deque[tuple[np.ndarray | PictureError, StageTimes]] = deque()
        self._home = Home()

    @property
    def takes(self) -> Plane:
        return plane(TAKES[self.stages[0]], self._checkpoint, self.options.size)

    @property
    def gives(self) -> Plane:
        return plane(GIVES[self.stages[-1]], self._checkpoint, self.options.size)

    def load(self) -> None:
        """Build uncached programs, load all and render a blank frame. Raises SdxsError."""
        self.close()
        refuse_without_runtime(self.options)
        self._checkpoint.verify()
        self._home = Home()
        self._built = find_or_build(self._checkpoint, self.options)
        self._runners = [
            open_runner(self._built, stage, self._checkpoint, self.options) for stage in self.stages
        ]
        self.submit(
            np.zeros(self.takes.shape, self.takes.dtype),
            np.zeros(self.options.size.shape, np.uint8),
        )
        self.collect(np.empty(self.gives.shape, self.gives.dtype))
        self.forget()  # keep the warm-up frame out of the feedback

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._require()
        check_conditioning(encoder_hidden_states, self._checkpoint.unet.cross_attention_dim)
        for runner in self._runners:
            runner.set_conditioning(encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        self._require()
        for runner in self._runners:
            runner.set_params(params)

    def forget(self) -> None:
        """Exclude earlier frames from the feedback of the next one."""
        for runner in self._runners:
            runner.forget()

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._require()
        self.takes.check(frame)
        if self.options.control:
            edges = check_edges(edges, self.options.size.shape)
        submitted_ns, bridge_ns = time.perf_counter_ns(), 0
        made: np.ndarray | PictureError = frame
        try:
            for runner in self._runners:
                frame, outside_ns = runner.run(frame, edges)
                bridge_ns += outside_ns
            made = frame
        except PictureError as error:  # `collect` raises it
            made = error
        self._done.append((made, StageTimes(time.perf_counter_ns() - submitted_ns, bridge_ns)))

    def collect(self, out: np.ndarray) -> StageTimes:
        self._require()
        if not self._done:
            raise BackendError("coreml: collect() without a submitted frame")
        made, times = self._done.popleft()
        if isinstance(made, PictureError):
            raise made
        np.copyto(out, made.reshape(out.shape))
        copies.count("backend out", out.nbytes)
        return times

    def memory(self) -> MemoryUse:
        """Return the packages' bytes as model_bytes; Core ML's own memory is only in footprints."""
        stages = self.stages if self._runners else ()
        return MemoryUse(
            0, 0, 0, sum(cache.size_bytes(self._built.package(stage)) for stage in stages)
        )

    def describe(self) -> Description:
        options = self.options
        units = {stage: options.units(stage) for stage in self.stages}
        device = (
            " ".join(f"{stage}={unit}" for stage, unit in units.items())
            if options.placement
            else options.units(self.stages[0])
        )
        facts: tuple[tuple[str, str], ...] = (
            ("attention", options.forms),
            ("input", options.input),
        )
        if options.runtime == "pyobjc":
            facts = (("runtime", "PyObjC"), *facts)
        if options.on_core_ml:
            return Description(self.name, device, options.weights, facts)
        runtime = ("runtime", f"{STAND_IN}; its times are no speed of Core ML")
        facts = (runtime, *facts)
        return Description(self.name, "CPU, NumPy", options.weights, facts, stand_in=STAND_IN)

    def close(self) -> None:
        for runner in self._runners:
            runner.close()
        self._runners.clear()
        self._done.clear()

    def _require(self) -> None:
        if not self._runners:
            raise BackendError("coreml: backend is not loaded; call load() first")
        self._home.check("coreml")


def plane(what: str, checkpoint: Checkpoint, size: FrameSize) -> Plane:
    """Return shape and dtype of a stage's input or output: uint8 pictures or float32 latents."""
    if what in ("picture", "image"):
        return Plane((*size.shape, 3))
    vae = checkpoint.vae
    return Plane((1, vae.latent_channels, *size.divided(vae.reduction)), "float32")


_KEPT: type[Backend] = StagesBackend  # mypy holds it to the protocol
