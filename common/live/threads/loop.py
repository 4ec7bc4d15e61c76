"""The camera loop: capture thread -> slot -> inference thread -> slot -> main-thread display.

Any backend, always the freshest frame: each slot holds one item and the latest wins. Every wait is
on a condition. The inference thread loads, warms, feeds and closes the backends; live changes
reach it as commands applied between frames. A thread hands its exception to `run`, which raises it.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from ...adapt.loras import Adapters
from ...backend.protocol import Backend, FrameParams
from ...errors import first_of
from ...io.sources.protocol import Source
from ...patience import Patience
from ...picture.size import FrameSize
from ..options import LoopOptions
from ..stats import Stats, Summary
from .capture import Capture
from .display import DISPLAY_WAIT_S, Display
from .frames import LiveFrame
from .guard import Guard
from .inference import Inference
from .pipeline import Pipeline
from .prompt import Encode, Prompt, is_encoded_for, prepared
from .renderer import Renderer

__all__ = ["Loop", "LoopOptions", "Prompt"]

# for the threads to end when the user wants to leave, or when one of them is known to hang or has
# failed
JOIN_S = 0.6
# for each backend to close otherwise: what it says then, and its memory, belong to the session
ORDERLY_JOIN_S = 5.0


class Loop:
    """One session over one source. Built, run and stopped by the main thread.

    `stop` may be called from a signal handler: it only sets a flag.
    """

    def __init__(
        self,
        source: Source,
        backends: Sequence[Backend],
        options: LoopOptions,
        prompts: Sequence[Prompt],
        params: FrameParams,
        encode: Encode,
        adapters: Adapters | None = None,
    ) -> None:
        self.stats = Stats(len(backends))
        self.summary: Summary | None = None
        self._source = source
        self._options = options
        self._pipeline = Pipeline(options, len(backends))
        self._captured, self._rendered = self._pipeline.captured, self._pipeline.rendered
        self._capture = Capture(source, self._pipeline, options, self.stats)
        self._renderer = Renderer(backends, prompts, params, options, self.stats)
        self._inference = Inference(
            self._renderer, self._pipeline, options, source.fps, encode, adapters
        )
        self._adapters = adapters
        if adapters:
            self._renderer.prepare = self._prepared
        self.display = Display(self._capture, self._inference, self._pipeline, options, self.stats)
        reading = self._capture.run_in_turn if options.sequential else self._capture.run
        self._guard = Guard(
            [("sdxs-capture", reading), ("sdxs-inference", self._inference.run)], self._fail
        )
        self._encode = encode
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="sdxs-prompt")
        self._pending: list[Future[None]] = []
        self._under_way = 0

    # Live changes, from the main thread.

    def set_prompt(self, text: str) -> "Future[None]":
        """Encode a prompt beside the running session, then switch to it between two frames.

        One that still waits for its turn to be encoded is given up, so that a flood ends somewhere.
        """
        for each in self._pending:
            each.cancel()
        self._pending = [future for future in self._pending if not future.done()]
        self._pending.append(self._encoder.submit(self._encode_prompt, text))
        return self._pending[-1]

    def use_prompt(self, prompt: Prompt) -> None:
        """Switch to a prompt that is encoded already."""
        self._inference.commands.append(lambda renderer: renderer.set_prompt(prompt))

    def set_params(self, params: FrameParams) -> None:
        """Change seed, feedback, control scale or LoRA scale between two frames."""
        if self._adapters:  # which may have to encode the prompt again
            self._encoder.submit(self._set_params_prepared, params)
            return
        self._inference.commands.append(lambda renderer: renderer.set_params(params))

    def set_transition(self, seconds: float) -> None:
        """Take so long from one prompt to the next, from the next change on."""
        self._inference.commands.append(lambda renderer: renderer.set_transition(seconds))

    def set_skip(self, threshold: float) -> None:
        """Reuse pictures up to another threshold, see `Similarity`."""
        self._inference.commands.append(lambda renderer: renderer.set_skip(threshold))

    def set_edges(self, kind: str) -> None:
        """Draw another kind of edges from the next captured frame on."""
        self._capture.set_edges(kind)

    def set_mirror(self, mirror: bool) -> None:
        """Mirror the camera, or not, from the next captured frame on."""
        self._capture.set_mirror(mirror)

    def pause(self, paused: bool) -> None:
        """Hold the picture; captured frames are dropped and counted meanwhile."""
        if paused:
            self._pipeline.resumed.clear()
        else:
            self._pipeline.resumed.set()

    def stop(self) -> None:
        """Ask the session to end; safe in a signal handler."""
        self._pipeline.stopped = True

    def continued(self) -> None:
        """Leave out of all times that the process was stopped until now; for a signal handler."""
        self.display.continued()

    @property
    def size(self) -> FrameSize:
        """The size of the frames."""
        return FrameSize.of(self._options.size)

    @property
    def dropped(self) -> int:
        """Frames so far that a newer one replaced, before inference or before display."""
        return self._captured.dropped + self._rendered.dropped

    @property
    def paused(self) -> bool:
        return self._pipeline.paused

    @property
    def abandoned(self) -> bool:
        """After `run`: a thread could not be ended (a read or a load that does not return)."""
        # The interpreter would wait for it.
        encoding = any(future.running() for future in self._pending)
        return encoding or self._guard.alive

    # The main thread.

    def run(
        self,
        show: Callable[[LiveFrame], None],
        idle: Callable[[], None],
        finish: Callable[[], None],
    ) -> Summary:
        """Run the session on the calling thread until it ends, and return its figures.

        show: takes each frame that reaches the display; its pictures are only valid during the
        call. idle: called between frames at least 20 times a second. finish: closes the sinks;
        always called, before anything is waited for. Raises the first thing that a thread, `show`
        or `finish` raised, with the others as its notes; `summary` then holds the figures until
        there.
        """
        self._began_ns = time.perf_counter_ns()
        display = self.display
        drive = display.drive_in_turn if self._options.sequential else display.drive
        ended = "failed"
        errors: list[BaseException] = []
        try:
            ended = drive(self._guard, show, idle)
        except BaseException as error:
            errors.append(error)
        try:
            self._end(finish)
        except BaseException as error:
            errors.append(error)
        if self._guard.failure is not None:
            errors.insert(0 if ended != "failed" else 1, self._guard.failure)
            ended = "failed"
        dropped = self._captured.dropped, self._rendered.dropped
        self.summary = self.stats.summary(self._began_ns, dropped, ended, self._under_way)
        if errors:
            raise first_of(errors)
        return self.summary

    def _end(self, finish: Callable[[], None]) -> None:
        """Keep the files, then end the threads, within a second in a hurry; see `_patience_s`."""
        pipeline = self._pipeline
        pipeline.begin_to_end()
        try:
            finish()
        finally:
            left = [*self._captured.close(discard=True), *self._rendered.close(discard=True)]
            self._capture.ask()
            pipeline.pool.close()
            self._encoder.shutdown(wait=False, cancel_futures=True)
            self._join()
            self._under_way = len(left) + len(pipeline.refused) + len(self._renderer.in_flight)
            if not self._guard.threads[0].is_alive():
                self._source.close()

    def _join(self) -> None:
        """Wait for the threads; whatever does not end in time is left behind, see `abandoned`."""
        patience = Patience(JOIN_S)
        self._guard.join(self._patience_s, DISPLAY_WAIT_S)
        # A prompt under way is of no use any more, so there is no reason to wait for it any longer.
        encoding = [future for future in self._pending if not future.done()]
        while (not_done := wait(encoding, 0).not_done) and (left := patience.left_s()) > 0:
            wait(not_done, min(left, DISPLAY_WAIT_S), FIRST_COMPLETED)
        if not not_done:
            self._encoder.shutdown(wait=True)  # its thread has nothing left to do

    def _patience_s(self) -> float:
        if self._pipeline.stopped or self._capture.stalled or self._guard.failure:
            return JOIN_S
        return 1 + ORDERLY_JOIN_S * self.stats.backend_count

    # The other threads.

    def _fail(self) -> None:
        self._capture.excuse()
        self._pipeline.fail()

    def _encode_prompt(self, text: str) -> None:
        scale = self._renderer.params.lora_scale
        self.use_prompt(prepared(text, self._encode, self._adapters, scale))

    def _set_params_prepared(self, params: FrameParams) -> None:
        try:  # what is encoded here is remembered when the inference thread asks for it
            if self._adapters and (text := self._renderer.prompt):
                prepared(text, self._encode, self._adapters, params.lora_scale)
        finally:
            self._inference.commands.append(lambda renderer: renderer.set_params(params))

    def _prepared(self, prompt: Prompt, lora_scale: float) -> Prompt:
        """Return a prompt as it is encoded at a LoRA scale."""
        assert self._adapters
        if is_encoded_for(prompt, lora_scale, self._adapters):
            return prompt
        return prepared(prompt.text, self._encode, self._adapters, lora_scale)
