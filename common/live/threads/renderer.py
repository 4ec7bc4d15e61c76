"""What the inference thread renders with: backends, what is in flight, what was last rendered."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np

from ...backend import copies
from ...backend.protocol import Backend, FrameParams
from ...errors import PictureError, SdxsWarning
from ...picture.temporal import Similarity
from ...prompt.blend import Slerp, ease
from ..options import LoopOptions
from ..stats import Stats
from .admission import Admission
from .frames import LiveFrame
from .pipeline import MOST_IN_FLIGHT
from .prompt import Prompt


class Renderer:
    """The inference thread's state: backends, what is in flight, and what was last rendered."""

    def __init__(
        self,
        backends: Sequence[Backend],
        prompts: Sequence[Prompt],
        params: FrameParams,
        options: LoopOptions,
        stats: Stats,
    ) -> None:
        self.backends = backends
        self.prompt = ""
        self.params = params
        self.admission = Admission(1)
        self.in_flight: deque[tuple[LiveFrame, int]] = deque()
        self._prompts = prompts
        self._hold, self._realtime = options.hold, options.realtime
        self._turn = 0
        self._similarity, self._skip = Similarity(options.skip_threshold), options.skip_threshold
        self._stats = stats
        self._last: list[np.ndarray] = []
        self._encoder_hidden_states: np.ndarray | None = None  # what the backends have
        self._way: Slerp | None = None
        self._way_ns = 0
        self._transition_ns = round(options.transition_s * 1e9)
        self._edge_kind = options.edges
        self._turning = False
        self._way_began_ns = -1  # not before a frame has been on it
        self._now: Prompt | None = None
        self.prepare: Callable[[Prompt, float], Prompt] | None = None  # only with LoRAs

    def load(self) -> None:
        for backend in self.backends:
            backend.load()
        # Two backends advance together, so neither runs ahead of the other.
        depth = self.backends[0].depth if len(self.backends) == 1 else 1
        self.admission = Admission(min(depth, MOST_IN_FLIGHT))
        self._stats.backends = [backend.describe() for backend in self.backends]
        self.set_prompt(self._prompts[0])
        self.set_params(self.params)

    @property
    def stopped_ns(self) -> int:
        """How long the process was stopped so far, in ns."""
        return self._stats.stopped_ns

    def turn_to(self, number: int) -> None:
        """Change to the prompt whose turn it is at frame `number`."""
        turn = number // self._hold % len(self._prompts) if self._hold else self._turn
        if turn != self._turn:
            self._turn = turn
            self.set_prompt(self._prompts[turn])

    def set_prompt(self, prompt: Prompt) -> None:
        """Change to a prompt at once, or glide to it from the present point of the last change."""
        if self.prepare:
            prompt = self.prepare(prompt, self.params.lora_scale)
        self.prompt, self._now = prompt.text, prompt
        if prompt.loras is not None:
            self._pass_on(self.params)
        if self._encoder_hidden_states is None or not self._transition_ns:
            self._way = None
            self._condition(prompt.encoder_hidden_states)
        else:
            self._way = Slerp(self._encoder_hidden_states, prompt.encoder_hidden_states)
            self._way_ns, self._way_began_ns = self._transition_ns, -1

    def set_transition(self, seconds: float) -> None:
        """Take so long for the next change of prompt; one under way keeps its time."""
        self._transition_ns = round(seconds * 1e9)

    def set_skip(self, threshold: float) -> None:
        """Reuse pictures up to another threshold, see `Similarity`."""
        self._similarity, self._skip = Similarity(threshold), threshold

    def _condition(self, encoder_hidden_states: np.ndarray) -> None:
        for backend in self.backends:
            backend.set_conditioning(encoder_hidden_states)
        self._encoder_hidden_states = encoder_hidden_states
        self._similarity.forget()

    def advance(self, frame_ns: int) -> None:
        """Go on along a transition to where the frame of this time belongs."""
        self._turning = self._way is not None
        if self._way is None:
            return
        if self._way_began_ns < 0:
            self._way_began_ns = frame_ns
        share = (frame_ns - self._way_began_ns) / self._way_ns
        self._condition(self._way(ease(share)))
        if share >= 1:
            self._way = None

    def set_params(self, params: FrameParams) -> None:
        if self._now and self.prepare and params.lora_scale != self.params.lora_scale:
            prompt = self.prepare(self._now, params.lora_scale)
            if prompt is not self._now:
                self._now, self._way = prompt, None
                self._condition(prompt.encoder_hidden_states)
        self._pass_on(params)

    def _pass_on(self, params: FrameParams) -> None:
        if self._now and self._now.loras is not None:
            params = replace(params, loras=self._now.loras, later=self._realtime)
        for backend in self.backends:
            backend.set_params(params)
        self.params = params
        self._similarity.forget()

    def can_repeat(self, frame: LiveFrame) -> bool:
        """Whether the last outputs serve for `frame` too."""
        if frame.edge_kind != self._edge_kind:
            self._edge_kind = frame.edge_kind
            self._similarity.forget()
        unchanged = self._similarity.is_similar(frame.camera)
        return unchanged and bool(self._last) and self.params.feedback == 0

    def repeat(self, frame: LiveFrame) -> None:
        for output, last in zip(frame.outputs, self._last, strict=True):
            np.copyto(output, last)
            copies.count("last picture", output.nbytes)
        frame.similar = True
        frame.stage_ns["backend"] = 0
        self._stats.skipped += 1

    def mark(self, frame: LiveFrame) -> None:
        """Note in a frame what it is rendered with."""
        frame.prompt, frame.turning = self.prompt, self._turning
        frame.params, frame.skip = self.params, self._skip

    def submit(self, frame: LiveFrame) -> None:
        self.mark(frame)
        now = time.perf_counter_ns()
        for backend in self.backends:
            backend.submit(frame.camera, frame.edges)
        self.admission.submitted(now)
        self.in_flight.append((frame, now))

    def collect(self) -> LiveFrame:
        frame, submitted_ns = self.in_flight.popleft()
        for number, (backend, output) in enumerate(zip(self.backends, frame.outputs, strict=True)):
            try:
                times = backend.collect(output)
                spent_ns, frame.turning = times.total_ns, frame.turning or times.behind
                if times.behind:  # a still camera gets its picture again under the LoRAs to come
                    self._similarity.forget()
            except PictureError as error:
                self._show_last(frame, number, error)
                spent_ns = time.perf_counter_ns() - submitted_ns
            frame.stage_ns[f"backend {number + 1}" if number else "backend"] = spent_ns
        now = time.perf_counter_ns()
        frame.stage_ns["inference"] = now - submitted_ns
        self.admission.collected(now)
        if submitted_ns < self._stats.continued_ns:
            self.admission.forget_times()
        self._remember(frame)
        self._stats.inferred += 1
        return frame

    def _show_last(self, frame: LiveFrame, number: int, error: PictureError) -> None:
        """Show the last picture of a backend again, and warn once.

        Before the first a camera shows black; of a file, `error` is raised.
        """
        if self._last:
            np.copyto(frame.outputs[number], self._last[number])
        elif self._realtime:
            frame.outputs[number].fill(0)
        else:
            raise error
        copies.count("last picture", frame.outputs[number].nbytes)
        frame.similar = True
        self._similarity.forget()
        self._stats.no_pictures += 1
        if self._stats.no_pictures == 1:
            warnings.warn(
                f"frame {frame.id}: {error}; the last good picture is shown instead, here and "
                "wherever this happens again",
                SdxsWarning,
                stacklevel=2,
            )

    def _remember(self, frame: LiveFrame) -> None:
        if not self._last:
            self._last = [np.empty_like(output) for output in frame.outputs]
        for last, output in zip(self._last, frame.outputs, strict=True):
            np.copyto(last, output)
            copies.count("last picture", last.nbytes)

    def check(self) -> None:
        """Ask every backend for a sign of life.

        Raises BackendError if one has died with nothing in flight.
        """
        for backend in self.backends:
            backend.memory()

    def close(self) -> None:
        """Close every backend, then raise the first error one of them raised."""
        failure: BaseException | None = None
        for backend in self.backends:
            for last in (
                lambda backend=backend: self._stats.memory.append(asdict(backend.memory())),
                backend.close,
            ):
                try:
                    last()
                except (
                    Exception
                ) as error:  # the other backends must be closed whatever this one raises
                    failure = failure or error
        if failure:
            raise failure
