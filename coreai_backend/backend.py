"""The Core AI backend: one program per frame, and a second one for frames under control."""

import time
from collections import deque
from typing import get_args

import numpy as np

from ..common.backend import copies
from ..common.backend.description import Description
from ..common.backend.program_cache import size_bytes
from ..common.backend.protocol import (
    Backend,
    FrameParams,
    MemoryUse,
    StageTimes,
    check_conditioning,
    check_control,
    check_edges,
    check_frame,
    check_loras,
    check_picture,
)
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError, PictureError
from .cache import Built
from .options import CoreAIOptions, Stage, check_options, has_framework
from .prepare import coreai_version, find_or_build, refuse_without_runtime
from .runner import Runner

STAND_IN = "Apple's CPU runtime, one core"
REMEDY = "check the weights with `sdxs weights verify`, or take --dtype float32"


class CoreAIBackend:
    """Render on Apple's runtime of Core AI, in the calling thread."""

    name = "coreai"
    depth = 1

    def __init__(self, checkpoint: Checkpoint, options: CoreAIOptions) -> None:
        """Check the options; build nothing yet. Raises UsageError for impossible options."""
        check_options(checkpoint, options)
        self.checkpoint = checkpoint
        self.options = options
        self._runners: list[Runner] = []  # the frame's, and with a ControlNet the controlled one's
        self._built: list[Built] = []
        self._params = FrameParams()
        self._done: deque[tuple[np.ndarray | PictureError, StageTimes]] = deque()

    def load(self) -> None:
        """Build what is not cached, open it and render a blank frame. Raises SdxsError."""
        self.close()
        refuse_without_runtime()
        needed = [self.options, *([self.options.controlled()] if self.checkpoint.control else [])]
        try:
            for options in needed:
                self._built.append(find_or_build(self.checkpoint, options))
                runner = Runner(self._built[-1], self.checkpoint, options, options.used_unit)
                self._runners.append(runner)
                blank = np.zeros((*self.options.size.shape, 3), np.uint8)
                runner.run(blank, blank[..., 0])
                runner.forget()
        except BaseException:
            self.close()
            raise

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        check_conditioning(encoder_hidden_states, self.checkpoint.unet.cross_attention_dim)
        for runner in self._loaded():
            runner.set_conditioning(encoder_hidden_states)

    def set_params(self, params: FrameParams) -> None:
        runners = self._loaded()
        check_control(params, len(runners) > 1)
        check_loras("coreai", params, tuple(each.weight for each in self.checkpoint.loras))
        for runner in runners:
            runner.set_params(params)
            # the other program takes over, and its last frame is old
            if bool(params.control_scale) != bool(self._params.control_scale):
                runner.forget()
        self._params = params

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        runners = self._loaded()
        check_frame(frame, (*self.options.size.shape, 3))
        under_control = self._params.control_scale > 0
        if under_control:
            edges = check_edges(edges, self.options.size.shape)
        submitted_ns = time.perf_counter_ns()
        runner = runners[under_control]
        given = None if self._params.text_only else frame
        made: np.ndarray | PictureError
        try:
            made = runner.run(frame, edges)["image"]
            check_picture(self.name, made, given, True, REMEDY)
        except PictureError as error:  # `collect` raises it
            made = error
            runner.forget()
        self._done.append((made, StageTimes(time.perf_counter_ns() - submitted_ns)))

    def collect(self, out: np.ndarray) -> StageTimes:
        self._loaded()
        if not self._done:
            raise BackendError("coreai: collect() without a submitted frame")
        made, times = self._done.popleft()
        if isinstance(made, PictureError):
            raise made
        np.copyto(out, made)
        copies.count("backend out", out.nbytes)
        return times

    def memory(self) -> MemoryUse:
        """Return the programs' bytes as model_bytes; Core AI's own memory is only in footprints."""
        stages = zip(self._built, get_args(Stage), strict=False)
        return MemoryUse(0, 0, 0, sum(size_bytes(each.source(stage)) for each, stage in stages))

    def describe(self) -> Description:
        options = self.options
        facts: tuple[tuple[str, str], ...] = (
            ("attention", options.form),
            ("weights", options.stored),
            ("coreai-core", coreai_version()),
        )
        if self._runners:
            in_place = all(runner.in_place for runner in self._runners)
            facts += (("inputs", "written in place" if in_place else "copied"),)
        if has_framework():
            return Description(self.name, options.used_unit, options.precision, facts)
        runtime = ("runtime", f"{STAND_IN}; its times are no speed of Core AI")
        facts = (runtime, *facts)
        return Description(self.name, "CPU", options.precision, facts, stand_in=STAND_IN)

    def close(self) -> None:
        runners, self._runners, self._built = self._runners, [], []
        self._done.clear()
        self._params = FrameParams()
        for runner in runners:
            runner.close()

    def _loaded(self) -> list[Runner]:
        if not self._runners:
            raise BackendError("coreai: backend is not loaded; call load() first")
        return self._runners


_KEPT: type[Backend] = CoreAIBackend  # mypy holds it to the protocol
