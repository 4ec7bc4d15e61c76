"""The camera loop: capture thread -> slot -> inference thread -> slot -> main-thread display.

Any backend, always the freshest frame: each slot holds one item and the latest wins. Every wait is
on a condition. The inference thread loads, warms, feeds and closes the backends; live changes
reach it as commands applied between frames. A thread hands its exception to `run`, which raises it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass

import numpy as np

from ..backend import copies
from ..backend.protocol import Backend, FrameParams
from ..errors import SourceLost, first_of
from ..io.sources.protocol import Source
from ..picture.edges import Edges
from ..picture.image import to_square_rgb
from ..picture.temporal import Similarity
from ..prompt.blend import Slerp, ease
from .admission import Admission
from .frames import Frame, Pool, Slot
from .stats import Stats, Summary

# for the threads to end when the user wants to leave, or when one of them is known to hang or has
# failed
JOIN_S = 0.6
# for each backend to close otherwise: what it says then, and its memory, belong to the session
ORDERLY_JOIN_S = 5.0
MOST_IN_FLIGHT = 8
IDLE_CHECK_S = 0.25  # how often a backend that has nothing to do is asked whether it is still there
DISPLAY_WAIT_S = (
    0.05  # a signal sets a flag and touches no lock, so the display looks up this often
)


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
    `Similarity`. stall_s: a source silent for so long is lost. transition_s: how long one prompt
    takes to become the next, on the camera's clock, or, where every frame is rendered, on the
    file's. edges: the kind that is drawn of every frame for a ControlNet, see `edges.py`, or none.
    """

    size: int
    frames: int | None = None
    hold: int = 0
    realtime: bool = True
    sequential: bool = False
    skip_threshold: float = 0.0
    stall_s: float = 10.0
    transition_s: float = 0.0
    edges: str = ""


Command = Callable[["_Renderer"], None]


class _Renderer:
    """The inference thread's state: backends, what is in flight, and what was last rendered."""

    def __init__(
        self,
        backends: Sequence[Backend],
        prompts: Sequence[Prompt],
        params: FrameParams,
        settings: LoopSettings,
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
        self._states: np.ndarray | None = None  # what the backends have
        self._way: Slerp | None = None
        self._transition_ns = round(settings.transition_s * 1e9)
        self._turning = False
        self._way_began_ns = -1  # not before a frame has been on it

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
        """Change to a prompt: at once, or over the next frames from wherever the last change has
        got to.
        """
        self.prompt = prompt.text
        if self._states is None or not self._transition_ns:
            self._way = None
            self._condition(prompt.encoder_hidden_states)
        else:
            self._way, self._way_began_ns = Slerp(self._states, prompt.encoder_hidden_states), -1

    def _condition(self, states: np.ndarray) -> None:
        for backend in self.backends:
            backend.set_conditioning(states)
        self._states = states
        self._similarity.forget()

    def advance(self, frame_ns: int) -> None:
        """Go on along a transition to where the frame of this time belongs."""
        self._turning = self._way is not None
        if self._way is None:
            return
        if self._way_began_ns < 0:
            self._way_began_ns = frame_ns
        share = (frame_ns - self._way_began_ns) / self._transition_ns
        self._condition(self._way(ease(share)))
        if share >= 1:
            self._way = None

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
        frame.prompt, frame.turning = self.prompt, self._turning
        now = time.perf_counter_ns()
        for backend in self.backends:
            backend.submit(frame.camera, frame.edges)
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
        """Ask every backend for a sign of life. Raises BackendError if one has died with nothing
        in flight.
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


class Loop:
    """One session over one source. Built, run and stopped by the main thread.

    `stop` may be called from a signal handler: it only sets a flag.
    """

    def __init__(
        self,
        source: Source,
        backends: Sequence[Backend],
        settings: LoopSettings,
        prompts: Sequence[Prompt],
        params: FrameParams,
        encode: Callable[[str], np.ndarray],
    ) -> None:
        self.stats = Stats(len(backends))
        self.stopped = False
        self.display_wait_s = (
            DISPLAY_WAIT_S  # how long the display waits for a frame before it looks for keys
        )
        self._source = source
        self._settings = settings
        self._renderer = _Renderer(backends, prompts, params, settings, self.stats)
        self._encode = encode
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="sdxs-prompt")
        self._commands: deque[Command] = deque()
        # One being captured, one in each slot, one being handed on, one on display, and those in
        # flight.
        self._pool = Pool(5 + MOST_IN_FLIGHT, settings.size, len(backends), bool(settings.edges))
        self._edges = Edges(settings.edges, settings.size) if settings.edges else None
        self._captured: Slot[Frame] = Slot(latest=settings.realtime)
        self._rendered: Slot[Frame] = Slot(latest=settings.realtime)
        self._ending = threading.Event()
        self._resumed = threading.Event()
        self._resumed.set()
        self.ready = threading.Event()
        self._failure: BaseException | None = None
        self._stalled = False
        self._reading_since_ns = 0  # 0 between two reads
        self._turns = threading.Semaphore(0)
        self._refused: deque[Frame] = deque()  # came too late: their slot was closed
        self._pending: list[Future[None]] = []
        self.summary: Summary | None = None
        self._under_way = 0
        self._threads = [
            threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
            for work, name in (
                (self._capture_in_turn if settings.sequential else self._capture, "sdxs-capture"),
                (self._infer, "sdxs-inference"),
            )
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
        """Change seed, feedback or strength of the control between two frames."""
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
        encoding = any(
            future.running() for future in self._pending
        )  # the interpreter would wait for it
        return encoding or any(thread.is_alive() for thread in self._threads)

    # The main thread.

    def run(
        self, show: Callable[[Frame], None], idle: Callable[[], None], finish: Callable[[], None]
    ) -> Summary:
        """Run the session on the calling thread until it ends, and return its figures.

        show: takes each frame that reaches the display; its pictures are only valid during the
        call. idle: called between frames at least 20 times a second. finish: closes the sinks;
        always called, before anything is waited for. Raises the first thing that a thread, `show`
        or `finish` raised, with the others as its notes; `summary` then holds the figures until
        there.
        """
        self._began_ns = time.perf_counter_ns()
        drive = self._drive_sequential if self._settings.sequential else self._drive
        ended = "failed"
        errors: list[BaseException] = []
        try:
            ended = drive(show, idle)
        except BaseException as error:
            errors.append(error)
        try:
            self._end(finish)
        except BaseException as error:
            errors.append(error)
        if self._failure is not None:
            errors.insert(0 if ended != "failed" else 1, self._failure)
            ended = "failed"
        dropped = self._captured.dropped, self._rendered.dropped
        self.summary = self.stats.summary(self._began_ns, dropped, ended, self._under_way)
        if errors:
            raise first_of(errors)
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
        """Capture, render and show one frame after the other, as the paper's program does: nothing
        overlaps.

        Only the read itself is done by another thread, so that one that hangs leaves this one free
        to say so.
        """
        renderer = self._renderer
        try:
            renderer.load()
            self.ready.set()
            self._threads[0].start()
            while not self.stopped:
                self._apply_commands(renderer)
                idle()
                if self.paused:
                    time.sleep(DISPLAY_WAIT_S)
                    continue
                frame = self._next_in_turn(idle)
                if frame is None:
                    return "stopped" if self.stopped else "source ended"
                renderer.turn_to(frame.id)
                renderer.advance(self._frame_ns(frame))
                renderer.submit(frame)
                frame = renderer.collect()
                frame.stage_ns["rendered at"] = time.perf_counter_ns()
                self._show(frame, show)
                if self.stats.shown == self._settings.frames:
                    return "frame count reached"
            return "stopped"
        finally:
            renderer.close()

    def _next_in_turn(self, idle: Callable[[], None]) -> Frame | None:
        self._turns.release()
        while not self.stopped:
            frame = self._captured.take(self.display_wait_s)
            if frame is not None or self._captured.finished:
                return frame
            idle()
            self._check_stall()
        return None

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
        since_ns = self._reading_since_ns
        silent_s = (time.perf_counter_ns() - since_ns) / 1e9 if since_ns else 0.0
        if silent_s > self._settings.stall_s:
            self._stalled = True
            raise SourceLost(
                f"{self._source.name} has delivered no frame for {silent_s:.0f} s; check its cable "
                "and that no other "
                "program took it; what was recorded until then is kept"
            )

    def _end(self, finish: Callable[[], None]) -> None:
        """Keep the files, then end the threads: within a second if there is any hurry, see
        `_patience_s`.
        """
        self._ending.set()
        self._resumed.set()
        self.ready.set()
        try:
            finish()
        finally:
            left = [*self._captured.close(discard=True), *self._rendered.close(discard=True)]
            self._turns.release()
            self._pool.close()
            self._encoder.shutdown(wait=False, cancel_futures=True)
            self._join()
            self._under_way = len(left) + len(self._refused) + len(self._renderer.in_flight)
            if not self._threads[0].is_alive():
                self._source.close()

    def _join(self) -> None:
        """Wait for the threads; whoever does not end in time is left behind, see `abandoned`."""
        began = time.perf_counter()
        for thread in reversed(self._threads):
            while (
                thread.is_alive() and (left := began + self._patience_s() - time.perf_counter()) > 0
            ):
                thread.join(
                    min(left, DISPLAY_WAIT_S)
                )  # a signal that comes meanwhile sets `stopped`
        # A prompt under way is of no use any more, so there is no reason to wait for it any longer.
        encoding = [future for future in self._pending if not future.done()]
        if not wait(encoding, max(0.0, began + JOIN_S - time.perf_counter())).not_done:
            self._encoder.shutdown(wait=True)  # its thread has nothing left to do

    def _patience_s(self) -> float:
        if self.stopped or self._stalled or self._failure:
            return JOIN_S
        return 1 + ORDERLY_JOIN_S * self.stats.backend_count

    # The other threads.

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed to the main thread, which raises it
            self._failure = self._failure or error
            self._reading_since_ns = 0
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
        due_ns = time.perf_counter_ns()
        limit = None if settings.realtime else settings.frames
        while not self._ending.is_set() and (limit is None or self.stats.captured < limit):
            if interval_ns:
                self._ending.wait(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
                due_ns = max(due_ns, time.perf_counter_ns() - interval_ns) + interval_ns
            frame = self._read_frame()
            if frame is None:
                break
            self._put(self._captured, frame)
        self._captured.close()

    def _capture_in_turn(self) -> None:
        """Read a frame whenever the main thread asks for one."""
        while self._turns.acquire() and not self._ending.is_set():
            frame = self._read_frame()
            if frame is None:
                break
            self._put(self._captured, frame)
        self._captured.close()

    def _put(self, slot: Slot[Frame], frame: Frame) -> None:
        back = slot.put(frame)
        if back is frame:
            self._refused.append(frame)
        if back is not None:
            self._pool.give_back(back)

    def _read_frame(self) -> Frame | None:
        """Read, stamp, crop and convert the next frame into a pool buffer; None at the end."""
        self._reading_since_ns = time.perf_counter_ns()
        picture = self._source.read()
        captured_ns, self._reading_since_ns = time.perf_counter_ns(), 0
        frame = self._pool.take() if picture is not None else None
        if picture is None or frame is None:
            return None
        to_square_rgb(picture, frame.camera)
        frame.id, frame.captured_ns, frame.similar, frame.turning = (
            self.stats.captured,
            captured_ns,
            False,
            False,
        )
        if self._edges and frame.edges is not None:
            self._edges.draw(frame.camera, frame.edges)
        frame.stage_ns = {"capture": time.perf_counter_ns() - captured_ns}
        self.stats.captured += 1
        return frame

    def _infer(self) -> None:
        renderer = self._renderer
        try:
            renderer.load()
            self.ready.set()
            while not self._ending.is_set():
                if self.paused:
                    self._hold(renderer)
                self._apply_commands(renderer)
                if not self._step(renderer):
                    break
        finally:
            renderer.close()
        self._rendered.close()

    def _frame_ns(self, frame: Frame) -> int:
        """When a frame is, on the clock that transitions run on."""
        return (
            frame.captured_ns
            if self._settings.realtime
            else round(frame.id * 1e9 / self._source.fps)
        )

    def _hold(self, renderer: _Renderer) -> None:
        """Hand on what is under way, which would be stale later, then wait for the pause to end."""
        while renderer.in_flight:
            self._deliver(renderer.collect())
        while not self._resumed.wait(IDLE_CHECK_S):
            renderer.check()

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
            if frame is not None and self.paused:  # since this thread began to wait for a frame
                if self._settings.realtime:
                    self._captured.count_drop()
                    self._pool.give_back(frame)
                    return True
                self._hold(renderer)  # every frame has its turn
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
        renderer.advance(self._frame_ns(frame))
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
        self._put(self._rendered, frame)
        time.sleep(
            0
        )  # lets the display in before this thread takes the GIL again: 26 ms without it, measured
