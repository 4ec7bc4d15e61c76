"""The main thread's part of the loop: show frames as they come, or drive everything in turn."""

import time
from collections.abc import Callable

from ..options import LoopOptions
from ..stats import Stats
from .capture import Capture
from .frames import LiveFrame
from .guard import Guard
from .inference import Inference
from .pipeline import Pipeline

DISPLAY_WAIT_S = (
    0.05  # a signal sets a flag and touches no lock, so the display looks up this often
)
LEAST_STOP_NS = 500_000_000  # less is the display's own work
LATE_SIGNAL_NS = 1_000_000_000
NO_GAP = (0, 0)  # since and until when the display did not look up


class Display:
    """Takes rendered frames on the main thread.

    wait_s: how long it waits for a frame before it looks for keys.
    """

    def __init__(
        self,
        capture: Capture,
        inference: Inference,
        pipeline: Pipeline,
        options: LoopOptions,
        stats: Stats,
    ) -> None:
        self.wait_s = DISPLAY_WAIT_S
        self._looked_ns = time.perf_counter_ns()
        self._gap_ns = NO_GAP
        self._capture = capture
        self._inference = inference
        self._pipeline = pipeline
        self._frames = options.frames
        self._stats = stats

    def continued(self) -> None:
        """The process was stopped, by Ctrl-Z say, and goes on; safe in a signal handler.

        It was stopped since the display looked up last, or nearly. Where the signal comes to
        another thread first, this one may have looked up again already, and found the gap.
        """
        self._look()
        since_ns, until_ns = self._gap_ns
        if self._looked_ns - until_ns < LATE_SIGNAL_NS:
            self._stats.continued(since_ns, until_ns)
        self._gap_ns = NO_GAP

    def _look(self) -> None:
        now = time.perf_counter_ns()
        if now - self._looked_ns > LEAST_STOP_NS:
            self._gap_ns = self._looked_ns, now
        self._looked_ns = now

    def drive(
        self, guard: Guard, show: Callable[[LiveFrame], None], idle: Callable[[], None]
    ) -> str:
        """Show frames as the threads deliver them; return why it ended."""
        for thread in guard.threads:
            thread.start()
        while not self._pipeline.stopped:
            self._look()
            frame = self._pipeline.rendered.take(self.wait_s)
            idle()
            if frame is not None:
                self._show(frame, show)
                if self._stats.shown == self._frames:
                    return "frame count reached"
            elif self._pipeline.rendered.finished:
                return "source ended"
            self._capture.check_stall()
        return "stopped"

    def drive_in_turn(
        self, guard: Guard, show: Callable[[LiveFrame], None], idle: Callable[[], None]
    ) -> str:
        """Capture, render and show one frame after the other, as the paper's program: no overlap.

        Only the read itself is done by another thread, so that one that hangs leaves this one free
        to say so.
        """
        pipeline, inference, renderer = self._pipeline, self._inference, self._inference.renderer
        try:
            renderer.load()
            pipeline.ready.set()
            guard.threads[0].start()
            while not pipeline.stopped:
                self._look()
                inference.apply_commands()
                idle()
                if pipeline.paused:
                    pipeline.resumed.wait(DISPLAY_WAIT_S)
                    continue
                frame = self._next_in_turn(idle)
                if frame is None:
                    return "stopped" if pipeline.stopped else "source ended"
                inference.aim(frame)
                renderer.submit(frame)
                frame = renderer.collect()
                frame.stage_ns["rendered at"] = time.perf_counter_ns()
                self._show(frame, show)
                if self._stats.shown == self._frames:
                    return "frame count reached"
            return "stopped"
        finally:
            renderer.close()

    def _next_in_turn(self, idle: Callable[[], None]) -> LiveFrame | None:
        captured = self._pipeline.captured
        self._capture.ask()
        while not self._pipeline.stopped:
            self._look()
            frame = captured.take(self.wait_s)
            if frame is not None or captured.finished:
                return frame
            idle()
            self._capture.check_stall()
        return None

    def _show(self, frame: LiveFrame, show: Callable[[LiveFrame], None]) -> None:
        if len(frame.outputs) == 2:
            self._stats.compared(*frame.outputs)  # before smoothing and blending touch them
        began = time.perf_counter_ns()
        frame.stage_ns["wait for display"] = began - frame.stage_ns.pop("rendered at")
        show(frame)
        now = time.perf_counter_ns()
        frame.stage_ns["display"] = now - began
        self._stats.frame_shown(frame, now)
        self._pipeline.pool.give_back(frame)
