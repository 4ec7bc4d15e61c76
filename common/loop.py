"""The camera loop: capture thread -> slot -> inference thread -> slot -> main-thread display.

Any backend, always the freshest frame: each slot holds one item and the latest wins. Every wait is
on a condition. The inference thread loads, warms, feeds and closes the backends; live changes
reach it as commands applied between frames. A thread hands its exception to `run`, which raises it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from . import copies
from .admission import Admission
from .backend import Backend, FrameParams
from .errors import SourceLost
from .frames import Frame, Pool, Slot
from .image import to_square_rgb
from .source import Source
from .stats import Stats, Summary
from .temporal import Similarity

JOIN_S = 0.6
MOST_IN_FLIGHT = 8
IDLE_CHECK_S = 0.5  # how often a backend that has nothing to do is asked whether it is still there
DISPLAY_WAIT_S = 0.05  # a signal sets a flag and touches no lock, so the display looks up this often


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and what the text encoder made of it, float32 (1, 77, D)."""

    text: str
    encoder_hidden_states: np.ndarray


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How frames travel.

    frames: stop after so many. hold: change to the next prompt after so many frames; 0 for never.
    realtime: the freshest frame wins; otherwise every frame is rendered, in order. sequential: one
    thread does everything in turn, as in the paper, to compare with. skip_threshold: see
    `Similarity`. stall_s: a source silent for so long is lost.
    """

    size: int
    frames: int | None = None
    hold: int = 0
    realtime: bool = True
    sequential: bool = False
    skip_threshold: float = 0.0
    stall_s: float = 10.0


Command = Callable[["_Renderer"], None]


class _Renderer:
    """The inference thread's state: backends, what is in flight, and what was last rendered."""

    def __init__(
        self, backends: Sequence[Backend], prompts: Sequence[Prompt], params: FrameParams, settings: LoopSettings,
        stats: Stats,
    ) -> None:
        self.backends = backends
        self.prompt = ""
        self.params = params
        self.admission = Admission(1)
        self.in_flight: deque[tuple[Frame, int]] = deque()
        self._prompts = prompts
        self._hold = settings.hold
        self._turn = 0
        self._similarity = Similarity(settings.skip_threshold)
        self._stats = stats
        self._last: list[np.ndarray] = []

    def load(self) -> None:
        for backend in self.backends:
            backend.load()
        # Two backends advance together, so neither runs ahead of the other.
        depth = self.backends[0].depth if len(self.backends) == 1 else 1
        self.admission = Admission(min(depth, MOST_IN_FLIGHT))
        self._stats.backends = [backend.describe() for backend in self.backends]
        self.set_prompt(self._prompts[0])
        self.set_params(self.params)

    def turn_to(self, number: int) -> None:
        """Change to the prompt whose turn it is at frame `number`."""
        turn = number // self._hold % len(self._prompts) if self._hold else self._turn
        if turn != self._turn:
            self._turn = turn
            self.set_prompt(self._prompts[turn])

    def set_prompt(self, prompt: Prompt) -> None:
        for backend in self.backends:
            backend.set_conditioning(prompt.encoder_hidden_states)
        self.prompt = prompt.text
        self._similarity.forget()

    def set_params(self, params: FrameParams) -> None:
        for backend in self.backends:
            backend.set_params(params)
        self.params = params
        self._similarity.forget()

    def can_repeat(self, frame: Frame) -> bool:
        """Whether the last outputs serve for `frame` too."""
        unchanged = self._similarity.is_similar(frame.camera)
        return unchanged and bool(self._last) and self.params.feedback == 0

    def repeat(self, frame: Frame) -> None:
        for output, last in zip(frame.outputs, self._last, strict=True):
            np.copyto(output, last)
            copies.count("last picture", output.nbytes)
        frame.similar = True
        frame.stage_ns["backend"] = 0
        self._stats.skipped += 1

    def submit(self, frame: Frame) -> None:
        frame.prompt = self.prompt
        now = time.perf_counter_ns()
        for backend in self.backends:
            backend.submit(frame.camera)
        self.admission.submitted(now)
        self.in_flight.append((frame, now))

    def collect(self) -> Frame:
        frame, submitted_ns = self.in_flight.popleft()
        for number, (backend, output) in enumerate(zip(self.backends, frame.outputs, strict=True)):
            times = backend.collect(output)
            frame.stage_ns[f"backend {number + 1}" if number else "backend"] = times.total_ns
        now = time.perf_counter_ns()
        frame.stage_ns["inference"] = now - submitted_ns
        self.admission.collected(now)
        self._remember(frame)
        self._stats.inferred += 1
        return frame

    def _remember(self, frame: Frame) -> None:
        if not self._last:
            self._last = [np.empty_like(output) for output in frame.outputs]
        for last, output in zip(self._last, frame.outputs, strict=True):
            np.copyto(last, output)
            copies.count("last picture", last.nbytes)

    def check(self) -> None:
        """Ask every backend for a sign of life. Raises BackendError if one has died with nothing in flight."""
        for backend in self.backends:
            backend.memory()

    def close(self) -> None:
        """Close every backend, then raise the first error one of them raised."""
        failure: BaseException | None = None
        for backend in self.backends:
            for last in (lambda backend=backend: self._stats.memory.append(asdict(backend.memory())), backend.close):
                try:
                    last()
                except Exception as error:  # the other backends must be closed whatever this one raises
                    failure = failure or error
        if failure:
            raise failure


class Loop:
    """One session over one source. Built, run and stopped by the main thread.

    `stop` may be called from a signal handler: it only sets a flag.
    """

    def __init__(
        self, source: Source, backends: Sequence[Backend], settings: LoopSettings, prompts: Sequence[Prompt],
        params: FrameParams, encode: Callable[[str], np.ndarray],
    ) -> None:
        self.stats = Stats(len(backends))
        self.stopped = False
        self.display_wait_s = DISPLAY_WAIT_S  # how long the display waits for a frame before it looks for keys
        self._source = source
        self._settings = settings
        self._renderer = _Renderer(backends, prompts, params, settings, self.stats)
        self._encode = encode
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="sdxs-prompt")
        self._commands: deque[Command] = deque()
        # One being captured, one in each slot, one being handed on, one on display, and those in flight.
        self._pool = Pool(5 + MOST_IN_FLIGHT, settings.size, len(backends))
        self._captured: Slot[Frame] = Slot(latest=settings.realtime)
        self._rendered: Slot[Frame] = Slot(latest=settings.realtime)
        self._ending = threading.Event()
        self._resumed = threading.Event()
        self._resumed.set()
        self.ready = threading.Event()
        self._failure: BaseException | None = None
        self._last_read_ns = 0
        self._capturing = False
        self._pending: list[Future[None]] = []
        self.summary: Summary | None = None
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
            for work, name in ((self._capture, "sdxs-capture"), (self._infer, "sdxs-inference"))
        ]

    # Live changes, from the main thread.

    def set_prompt(self, text: str) -> "Future[None]":
        """Encode a prompt beside the running session, then switch to it between two frames."""
        self._pending = [future for future in self._pending if not future.done()]
        self._pending.append(self._encoder.submit(self._encode_prompt, text))
        return self._pending[-1]

    def use_prompt(self, prompt: Prompt) -> None:
        """Switch to a prompt that is encoded already."""
        self._commands.append(lambda renderer: renderer.set_prompt(prompt))

    def set_params(self, params: FrameParams) -> None:
        """Change seed or feedback between two frames."""
        self._commands.append(lambda renderer: renderer.set_params(params))

    def pause(self, paused: bool) -> None:
        """Hold the picture; captured frames are dropped and counted meanwhile."""
        if paused:
            self._resumed.clear()
        else:
            self._resumed.set()

    def stop(self) -> None:
        """Ask the session to end; safe in a signal handler."""
        self.stopped = True

    @property
    def paused(self) -> bool:
        return not self._resumed.is_set()

    @property
    def abandoned(self) -> bool:
        """After `run`: a thread could not be ended (a read or a load that does not return)."""
        encoding = any(future.running() for future in self._pending)  # the interpreter would wait for it
        return encoding or any(thread.is_alive() for thread in self._threads)

    # The main thread.

    def run(self, show: Callable[[Frame], None], idle: Callable[[], None], finish: Callable[[], None]) -> Summary:
        """Run the session on the calling thread until it ends, and return its figures.

        show: takes each frame that reaches the display; its pictures are only valid during the call.
        idle: called between frames at least 20 times a second. finish: closes the sinks; always called,
        before anything is waited for. Raises what a thread, `show` or `finish` raised; `summary` then
        holds the figures until there.
        """
        self._began_ns = self._last_read_ns = time.perf_counter_ns()
        drive = self._drive_sequential if self._settings.sequential else self._drive
        ended = "failed"
        try:
            ended = drive(show, idle)
        finally:
            try:
                self._end(finish)
            finally:
                ended = "failed" if self._failure else ended
                dropped = self._captured.dropped, self._rendered.dropped
                self.summary = self.stats.summary(self._began_ns, dropped, ended)
        if self._failure is not None:
            raise self._failure
        return self.summary

    def _drive(self, show: Callable[[Frame], None], idle: Callable[[], None]) -> str:
        """Show frames as the threads deliver them; return why it ended."""
        for thread in self._threads:
            thread.start()
        while not self.stopped:
            frame = self._rendered.take(self.display_wait_s)
            idle()
            if frame is not None:
                self._show(frame, show)
                if self.stats.shown == self._settings.frames:
                    return "frame count reached"
            elif self._rendered.finished:
                return "source ended"
            self._check_stall()
        return "stopped"

    def _drive_sequential(self, show: Callable[[Frame], None], idle: Callable[[], None]) -> str:
        """Capture, render and show one frame after the other on this thread, as the paper's program does."""
        renderer = self._renderer
        try:
            renderer.load()
            self.ready.set()
            while not self.stopped:
                self._apply_commands(renderer)
                idle()
                if self.paused:
                    time.sleep(DISPLAY_WAIT_S)
                    continue
                frame = self._read_frame()
                if frame is None:
                    return "source ended"
                renderer.turn_to(frame.id)
                renderer.submit(frame)
                frame = renderer.collect()
                frame.stage_ns["rendered at"] = time.perf_counter_ns()
                self._show(frame, show)
                if self.stats.shown == self._settings.frames:
                    return "frame count reached"
            return "stopped"
        finally:
            renderer.close()

    def _show(self, frame: Frame, show: Callable[[Frame], None]) -> None:
        if len(frame.outputs) == 2:
            self.stats.compared(*frame.outputs)  # before smoothing and blending touch them
        began = time.perf_counter_ns()
        frame.stage_ns["wait for display"] = began - frame.stage_ns.pop("rendered at")
        show(frame)
        now = time.perf_counter_ns()
        frame.stage_ns["display"] = now - began
        self.stats.frame_shown(frame, now)
        self._pool.give_back(frame)

    def _check_stall(self) -> None:
        silent_s = (time.perf_counter_ns() - self._last_read_ns) / 1e9
        if self._capturing and self._settings.realtime and silent_s > self._settings.stall_s:
            raise SourceLost(
                f"{self._source.name} has delivered no frame for {silent_s:.0f} s; check its cable and that no other "
                "program took it; what was recorded until then is kept"
            )

    def _end(self, finish: Callable[[], None]) -> None:
        """Keep the files, then end the threads, for at most a second in all."""
        self._ending.set()
        self._resumed.set()
        self.ready.set()
        try:
            finish()
        finally:
            for slot in (self._captured, self._rendered):
                slot.close(discard=True)
            self._pool.close()
            self._encoder.shutdown(wait=False, cancel_futures=True)
            deadline = time.perf_counter() + JOIN_S
            for thread in reversed(self._threads):
                if thread.ident is not None:
                    thread.join(max(0.0, deadline - time.perf_counter()))
            if not self._threads[0].is_alive():
                self._source.close()

    # The other threads.

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed to the main thread, which raises it
            self._failure = self._failure or error
            self._capturing = False
            self.ready.set()
            self._captured.close()
            self._rendered.close()  # what was rendered before is still shown and recorded

    def _encode_prompt(self, text: str) -> None:
        self.use_prompt(Prompt(text, self._encode(text)))

    def _capture(self) -> None:
        settings, source = self._settings, self._source
        interval_ns = round(1e9 / source.fps) if settings.realtime and source.paced else 0
        if settings.realtime:
            self.ready.wait()  # a clip must not play away while the model loads
        self._last_read_ns = due_ns = time.perf_counter_ns()
        self._capturing = True
        limit = None if settings.realtime else settings.frames
        while not self._ending.is_set() and (limit is None or self.stats.captured < limit):
            if interval_ns:
                self._ending.wait(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
                due_ns = max(due_ns, time.perf_counter_ns() - interval_ns) + interval_ns
            frame = self._read_frame()
            if frame is None:
                break
            replaced = self._captured.put(frame)
            if replaced is not None:
                self._pool.give_back(replaced)
        self._capturing = False
        self._captured.close()

    def _read_frame(self) -> Frame | None:
        """Read, stamp, crop and convert the next frame into a pool buffer; None at the end."""
        picture = self._source.read()
        captured_ns = self._last_read_ns = time.perf_counter_ns()
        frame = self._pool.take() if picture is not None else None
        if picture is None or frame is None:
            return None
        to_square_rgb(picture, frame.camera)
        frame.id, frame.captured_ns, frame.similar = self.stats.captured, captured_ns, False
        frame.stage_ns = {"capture": time.perf_counter_ns() - captured_ns}
        self.stats.captured += 1
        return frame

    def _infer(self) -> None:
        renderer = self._renderer
        try:
            renderer.load()
            self.ready.set()
            while not self._ending.is_set():
                while not self._resumed.wait(IDLE_CHECK_S):
                    renderer.check()
                self._apply_commands(renderer)
                if not self._step(renderer):
                    break
        finally:
            renderer.close()
        self._rendered.close()

    def _apply_commands(self, renderer: _Renderer) -> None:
        while self._commands:
            self._commands.popleft()(renderer)

    def _step(self, renderer: _Renderer) -> bool:
        """Submit a frame, or collect one and hand it on. False when there is nothing left to do."""
        window = renderer.admission.window_ns()
        if window is not None:
            earliest, latest = window
            if not renderer.in_flight:
                latest = time.perf_counter_ns() + round(IDLE_CHECK_S * 1e9)
            frame = self._captured.take_between(earliest, latest)
            if frame is not None:
                self._admit(renderer, frame)
                return True
            if not renderer.in_flight:
                renderer.check()
                return not self._captured.finished
        self._deliver(renderer.collect())
        return True

    def _admit(self, renderer: _Renderer, frame: Frame) -> None:
        now = time.perf_counter_ns()
        frame.stage_ns["wait for inference"] = now - frame.captured_ns - frame.stage_ns["capture"]
        renderer.turn_to(frame.id)
        if renderer.can_repeat(frame):
            while renderer.in_flight:
                self._deliver(renderer.collect())
            frame.prompt = renderer.prompt
            renderer.repeat(frame)
            self._deliver(frame)
        else:
            renderer.submit(frame)

    def _deliver(self, frame: Frame) -> None:
        frame.stage_ns["rendered at"] = time.perf_counter_ns()
        replaced = self._rendered.put(frame)
        if replaced is not None:
            self._pool.give_back(replaced)
        time.sleep(0)  # lets the display in before this thread takes the GIL again: 26 ms without it, measured
