"""The inference thread: it loads, warms, feeds and closes the backends.

Live changes reach it as commands that it applies between two frames.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import fields, replace

from ...adapt.loras import Adapters
from ...backend.protocol import FrameParams
from ..options import LoopOptions
from ..parameters import PLACES
from ..plan import Planned
from .frames import LiveFrame
from .pipeline import Pipeline
from .prompt import Encode, prepared
from .renderer import Renderer

PARAMS = frozenset(each.name for each in fields(FrameParams))  # named as live parameters are
IDLE_CHECK_S = 0.25  # how often a backend that has nothing to do is asked whether it is still there

Command = Callable[[Renderer], None]


class Inference:
    """The inference thread, `run`; the sequential loop uses its parts on the main thread."""

    def __init__(
        self,
        renderer: Renderer,
        pipeline: Pipeline,
        options: LoopOptions,
        source_fps: float,
        encode: Encode,
        adapters: Adapters | None = None,
    ) -> None:
        self.renderer = renderer
        self._adapters = adapters
        self.commands: deque[Command] = deque()
        self._pipeline = pipeline
        self._options = options
        self._source_fps = source_fps
        self._encode = encode

    def run(self) -> None:
        """Render frames from one slot into the other until the session ends."""
        pipeline, renderer = self._pipeline, self.renderer
        try:
            renderer.load()
            pipeline.ready.set()
            while not pipeline.ending.is_set():
                if pipeline.paused:
                    self._hold()
                self.apply_commands()
                if not self._step():
                    break
        finally:
            renderer.close()
        pipeline.rendered.close()

    def apply_commands(self) -> None:
        """Apply what the main thread has asked for since the last frame."""
        while self.commands:
            self.commands.popleft()(self.renderer)

    def aim(self, frame: LiveFrame) -> None:
        """Take the prompt, or the place in a transition, that this frame is rendered under."""
        self.renderer.turn_to(frame.id)
        if frame.planned:
            self._obey(frame.planned)
        self.renderer.advance(self._frame_ns(frame))

    def _obey(self, planned: Planned) -> None:
        """Take what a schedule changes with the next frame."""
        renderer, values = self.renderer, planned.values
        if planned.names & PARAMS:
            changed = {name: getattr(values, name) for name in planned.names & PARAMS}
            renderer.set_params(replace(renderer.params, **changed))
        if "skip" in planned.names:
            renderer.set_skip(values.skip)
        if "transition" in planned.names:
            renderer.set_transition(values.transition)
        if planned.names & {"prompt", *PLACES}:
            text = values.written_prompt
            scale = renderer.params.lora_scale
            renderer.set_prompt(prepared(text, self._encode, self._adapters, scale))

    def _frame_ns(self, frame: LiveFrame) -> int:
        """When a frame is, on the clock that transitions run on."""
        return (
            frame.captured_ns - self.renderer.stopped_ns
            if self._options.realtime
            else round(frame.id * 1e9 / self._source_fps)
        )

    def _hold(self) -> None:
        """Hand on what is under way, which would be stale later, then wait for the pause to end."""
        while self.renderer.in_flight:
            self._deliver(self.renderer.collect())
        while not self._pipeline.resumed.wait(IDLE_CHECK_S):
            self.renderer.check()

    def _step(self) -> bool:
        """Submit a frame, or collect one and hand it on. False when there is nothing left to do."""
        renderer, pipeline = self.renderer, self._pipeline
        window = renderer.admission.window_ns()
        if window is not None:
            earliest, latest = window
            if not renderer.in_flight:
                latest = time.perf_counter_ns() + round(IDLE_CHECK_S * 1e9)
            frame = pipeline.captured.take_between(earliest, latest)
            if frame is not None and pipeline.paused:  # since this thread began to wait for a frame
                if self._options.realtime:
                    pipeline.captured.count_drop()
                    pipeline.pool.give_back(frame)
                    return True
                self._hold()  # every frame has its turn
            if frame is not None:
                self._admit(frame)
                return True
            if not renderer.in_flight:
                renderer.check()
                return not pipeline.captured.finished
        self._deliver(renderer.collect())
        return True

    def _admit(self, frame: LiveFrame) -> None:
        renderer, now = self.renderer, time.perf_counter_ns()
        frame.stage_ns["wait for inference"] = now - frame.captured_ns - frame.stage_ns["capture"]
        self.aim(frame)
        if renderer.can_repeat(frame):
            while renderer.in_flight:
                self._deliver(renderer.collect())
            renderer.mark(frame)
            renderer.repeat(frame)
            self._deliver(frame)
        else:
            renderer.submit(frame)

    def _deliver(self, frame: LiveFrame) -> None:
        frame.stage_ns["rendered at"] = time.perf_counter_ns()
        self._pipeline.put(self._pipeline.rendered, frame)
        # lets the display in before this thread takes the GIL again: 26 ms without it, measured
        time.sleep(0)
