"""The loop: order, exact drops, commands between frames, and a clean end whatever happens."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import pytest

from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.protocol import Backend, FrameParams, StageTimes
from sdxs.common.errors import BackendError, SinkError, SourceLost
from sdxs.common.io.sources.synthetic import Synthetic, read_counter
from sdxs.common.live.stats import Summary
from sdxs.common.live.threads.display import DISPLAY_WAIT_S
from sdxs.common.live.threads.frames import LiveFrame
from sdxs.common.live.threads.inference import IDLE_CHECK_S
from sdxs.common.live.threads.loop import JOIN_S, Loop, LoopOptions, Prompt
from sdxs.common.testing.fakes import SleepingBackend, StagedBackend

SIZE = 64
OPTIONS = BackendOptions(SIZE)
PATIENCE_S = 30.0  # nothing here takes so long on any machine, unless it never comes


class Cards(Synthetic):
    """Test cards, a finite number of them, as fast as they are read."""

    fps = 1000.0

    def __init__(self, count: int, before: Callable[[int], None] | None = None) -> None:
        super().__init__(SIZE)
        self._left = count
        self._read = 0
        self._before = before
        self.closed = False

    def read(self) -> np.ndarray | None:  # type: ignore[override]
        if self._before:
            self._before(self._read)
        if self._read == self._left:
            return None
        self._read += 1
        return super().read()

    def close(self) -> None:
        self.closed = True


class Recording(IdentityBackend):
    """Identity that writes down what it was told, and by which thread."""

    def __init__(self) -> None:
        super().__init__(None, OPTIONS)
        self.calls: list[tuple[str, object]] = []
        self.threads: set[str] = set()

    def _note(self, name: str, value: object = None) -> None:
        self.calls.append((name, value))
        self.threads.add(threading.current_thread().name)

    def load(self) -> None:
        self._note("load")
        super().load()

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        self._note("prompt", float(encoder_hidden_states[0, 0, 0]))

    def set_params(self, params: FrameParams) -> None:
        self._note("params", params)

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self._note("submit", read_counter(frame))
        super().submit(frame, edges)

    def collect(self, out: np.ndarray) -> StageTimes:
        self._note("collect")
        return super().collect(out)

    def close(self) -> None:
        self._note("close")
        super().close()


@dataclass
class Run:
    loop: Loop
    summary: Summary | None = None
    error: BaseException | None = None
    numbers: list[int] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    finished: int = 0
    turning: list[bool] = field(default_factory=list)


def hidden_states(value: float) -> np.ndarray:
    return np.full((1, 77, 4), value, np.float32)


def make(
    source: object, *backends: Backend, prompts: Sequence[str] = ("0",), **settings: object
) -> Loop:
    made = LoopOptions(SIZE, **({"realtime": False, "skip_threshold": -1} | settings))  # type: ignore[arg-type]
    encoded = [Prompt(text, hidden_states(float(text))) for text in prompts]
    return Loop(
        source, backends, made, encoded, FrameParams(), lambda text: hidden_states(float(text))
    )  # type: ignore[arg-type]


def run(
    loop: Loop,
    on_show: Callable[[LiveFrame], None] | None = None,
    finish: Callable[[], None] | None = None,
) -> Run:
    """Run a loop to its end and check what must hold after every session."""
    before = set(threading.enumerate())
    result = Run(loop)

    def show(frame: LiveFrame) -> None:
        result.numbers.append(read_counter(frame.outputs[0]))
        result.prompts.append(frame.prompt)
        result.turning.append(frame.turning)
        assert frame.captured_ns > 0
        if on_show:
            on_show(frame)

    def close_sinks() -> None:
        result.finished += 1
        if finish:
            finish()

    try:
        result.summary = loop.run(show, lambda: None, close_sinks)
    except BaseException as error:
        result.error = error
    assert result.finished == 1, "the sinks are closed exactly once"
    assert result.numbers == sorted(set(result.numbers)), "frames came twice or out of order"
    if not loop.abandoned:
        left = {t for t in set(threading.enumerate()) - before if t.name.startswith("sdxs")}
        assert not left, left
    return result


def end(loop: Loop) -> None:
    """Wait for threads that a session left behind: none may be inside OpenCV at exit."""
    for thread in loop._guard.threads:
        if thread.ident is not None:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
    loop._encoder.shutdown()


@pytest.mark.parametrize("sequential", [False, True])
def test_every_frame_is_rendered_once_and_in_order(sequential: bool) -> None:
    done = run(make(Cards(100), IdentityBackend(None, OPTIONS), sequential=sequential))
    assert done.error is None and done.summary is not None
    assert done.numbers == list(range(100))
    assert (done.summary.captured, done.summary.inferred, done.summary.shown) == (100, 100, 100)
    assert done.summary.dropped_before_inference == done.summary.dropped_before_display == 0
    assert done.summary.ended == "source ended"


def test_a_pipeline_of_three_keeps_the_order() -> None:
    backend = StagedBackend(None, OPTIONS)
    backend.stages_ms = (1.0, 3.0, 1.0)
    done = run(make(Cards(60), backend))
    assert done.error is None and done.numbers == list(range(60))


def test_realtime_drops_are_counted_exactly() -> None:
    """Every captured frame that is not shown is one counted drop.

    Captured, rendered and shown wait for each other so that both kinds of drops must happen.
    """
    condition, captured = threading.Condition(), [0]

    def count(name: str) -> int:
        return [call for call, _ in backend.calls].count(name)

    def until(ready: Callable[[], bool]) -> None:
        with condition:
            assert condition.wait_for(ready, PATIENCE_S)

    class Told(Recording):
        def _note(self, name: str, value: object = None) -> None:
            with condition:
                super()._note(name, value)
                condition.notify_all()
            if name == "collect" and count("collect") == 1:
                until(lambda: captured[-1] >= 100)

    backend = Told()

    def before(number: int) -> None:
        with condition:
            captured[0] = number
            condition.notify_all()
        if number in (120, 140, 160):
            until(lambda: count("submit") >= number / 20 - 4)

    done = run(
        make(Cards(200, before), backend, realtime=True),
        lambda _: until(lambda: count("collect") >= 4),
    )
    assert done.error is None and done.summary is not None
    summary = done.summary
    assert summary.captured == 200
    assert summary.dropped_before_inference > 0 and summary.dropped_before_display > 0
    assert summary.captured == summary.inferred + summary.dropped_before_inference
    assert summary.inferred == summary.shown + summary.dropped_before_display
    assert summary.under_way_at_end == 0
    assert done.numbers[-1] == 199, "the last frame is always shown"


def test_the_freshest_frame_wins() -> None:
    """While the backend is held up, newer frames replace older ones; it then gets the newest."""
    newest_captured, begun = threading.Event(), threading.Event()

    class Held(Recording):
        def collect(self, out: np.ndarray) -> StageTimes:
            begun.set()
            newest_captured.wait(10)
            return super().collect(out)

    def before(number: int) -> None:
        if number == 1:
            begun.wait(10)  # the first frame is inside the backend
        if number == 30:
            newest_captured.set()

    backend = Held()
    done = run(make(Cards(30, before), backend, realtime=True))
    # What the display gets of the first frame is a race of its own: the second may replace it in
    # the slot.
    assert [number for name, number in backend.calls if name == "submit"] == [0, 29]
    assert done.numbers[-1] == 29


def test_backend_is_used_by_one_thread_only() -> None:
    backend = Recording()
    run(make(Cards(5), backend))
    assert backend.threads == {"sdxs-inference"}
    names = [name for name, _ in backend.calls]
    assert names[0] == "load" and names[-1] == "close" and names.count("close") == 1
    assert names.index("prompt") < names.index("submit")


def test_prompts_take_turns_at_exact_frames() -> None:
    backend = Recording()
    done = run(make(Cards(10), backend, prompts=("1", "2"), hold=3))
    assert done.prompts == ["1"] * 3 + ["2"] * 3 + ["1"] * 3 + ["2"]
    order = [(name, value) for name, value in backend.calls if name in ("prompt", "submit")]
    assert order.index(("prompt", 2.0)) == order.index(("submit", 3)) - 1


def test_a_new_prompt_is_encoded_beside_the_session_and_used_between_frames() -> None:
    encoding, release = threading.Event(), threading.Event()
    encoder_thread: list[str] = []
    encoded: list[Future[None]] = []

    def encode(text: str) -> np.ndarray:
        encoder_thread.append(threading.current_thread().name)
        encoding.set()
        release.wait(PATIENCE_S)
        return hidden_states(7)

    backend = Recording()
    loop = Loop(
        Cards(400),
        [backend],
        LoopOptions(SIZE, realtime=False, skip_threshold=-1),
        [Prompt("0", hidden_states(0))],
        FrameParams(),
        encode,
    )
    shown_meanwhile: list[int] = []

    def on_show(frame: LiveFrame) -> None:
        if frame.id == 10:
            encoded.append(loop.set_prompt("new"))
            encoding.wait(PATIENCE_S)
        if frame.id == 50:  # forty frames went by while the prompt was being encoded
            shown_meanwhile.append(frame.id)
            release.set()
            encoded[0].result(PATIENCE_S)  # else the session might end before

    done = run(loop, on_show)
    assert shown_meanwhile and "new" in done.prompts and done.numbers == list(range(400))
    assert encoder_thread[0].startswith("sdxs-prompt")
    switched = done.prompts.index("new")
    assert switched > 50 and set(done.prompts[switched:]) == {"new"}


def test_seed_and_feedback_reach_the_backend_between_frames() -> None:
    backend = Recording()
    loop = make(Cards(60), backend)
    params = FrameParams(seed=5, feedback=0.3)
    done = run(loop, lambda frame: loop.set_params(params) if frame.id == 5 else None)
    assert done.error is None and ("params", params) in backend.calls


def test_pause_holds_the_picture_and_goes_on() -> None:
    loop = make(Cards(10_000), IdentityBackend(None, OPTIONS), realtime=True, frames=40)
    paused_at: list[int] = []

    def on_show(frame: LiveFrame) -> None:
        if frame.id >= 5 and not paused_at:
            loop.pause(True)
            paused_at.append(loop.stats.shown)
            threading.Timer(0.2, loop.pause, (False,)).start()

    began = time.perf_counter()
    done = run(loop, on_show)
    assert (
        time.perf_counter() - began >= 0.2 and done.summary is not None and done.summary.shown == 40
    )
    assert not loop.paused


def test_two_backends_get_the_same_frames() -> None:
    first, second = Recording(), Recording()
    done = run(make(Cards(20), first, second))
    assert (
        done.summary is not None
        and done.summary.psnr_db is None
        and done.summary.identical_frames == 20
    )
    frames = [
        [value for name, value in backend.calls if name == "submit"] for backend in (first, second)
    ]
    assert frames[0] == frames[1] == list(range(20))


class Still(Cards):
    """The same picture again and again, but for one change half-way."""

    def read(self) -> np.ndarray | None:  # type: ignore[override]
        picture = super().read()
        return (
            None
            if picture is None
            else np.full_like(picture, 100 if self._read <= self._left // 2 else 104)
        )


@pytest.mark.parametrize(("threshold", "inferred"), [(-1, 20), (0, 2), (3, 2), (5, 1)])
def test_an_unchanged_input_is_not_inferred_again(threshold: float, inferred: int) -> None:
    done = run_still(threshold, FrameParams())
    assert (done.inferred, done.skipped_as_similar, done.shown) == (inferred, 20 - inferred, 20)


def test_feedback_is_never_skipped() -> None:
    """With feedback the output moves on although the input does not."""
    assert run_still(0, FrameParams(feedback=0.5)).inferred == 20


def run_still(threshold: float, params: FrameParams) -> Summary:
    settings = LoopOptions(SIZE, realtime=False, skip_threshold=threshold)
    loop = Loop(
        Still(20),
        [IdentityBackend(None, OPTIONS)],
        settings,
        [Prompt("0", hidden_states(0))],
        params,
        hidden_states,
    )  # type: ignore[arg-type]
    summary = loop.run(lambda _: None, lambda: None, lambda: None)
    assert summary.shown == 20
    return summary


def test_a_changed_prompt_is_rendered_though_the_input_is_unchanged() -> None:
    backend = Recording()
    loop = Loop(
        Still(20),
        [backend],
        LoopOptions(SIZE, hold=5, realtime=False),
        [Prompt("1", hidden_states(1)), Prompt("2", hidden_states(2))],
        FrameParams(),
        hidden_states,
    )  # type: ignore[arg-type]
    loop.run(lambda _: None, lambda: None, lambda: None)
    assert [name for name, _ in backend.calls].count(
        "submit"
    ) == 4  # one per turn of the prompts; one turn falls on the change


class Failing(IdentityBackend):
    """Raises at a given point."""

    def __init__(self, point: str, frame: int = 0) -> None:
        super().__init__(None, OPTIONS)
        self._point, self._frame, self._count = point, frame, 0

    def load(self) -> None:
        if self._point == "load":
            raise BackendError("planted on load")

    def collect(self, out: np.ndarray) -> StageTimes:
        self._count += 1
        if self._point == "frame" and self._count == self._frame:
            raise BackendError("planted on a frame")
        return super().collect(out)

    def close(self) -> None:
        if self._point == "close":
            raise BackendError("planted on close")


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(("point", "shown"), [("load", 0), ("frame", 99), ("close", 150)])
def test_a_backend_that_raises(point: str, shown: int, sequential: bool) -> None:
    done = run(make(Cards(150), Failing(point, 100), sequential=sequential))
    assert isinstance(done.error, BackendError) and "planted" in str(done.error)
    assert len(done.numbers) == shown, "what was rendered before is shown"


def test_a_source_that_is_lost_ends_the_session_and_is_reported() -> None:
    def before(number: int) -> None:
        if number == 20:
            raise SourceLost("planted")

    done = run(make(Cards(100, before), IdentityBackend(None, OPTIONS)))
    assert isinstance(done.error, SourceLost) and done.error.exit_code == 3


@pytest.mark.parametrize(
    "mode", [{"realtime": True}, {"realtime": False}, {"sequential": True}], ids=str
)
def test_a_read_that_never_returns_is_noticed_and_left_behind(mode: dict[str, object]) -> None:
    """Bug: only the live loop noticed."""
    shown, release = threading.Event(), threading.Event()

    def before(number: int) -> None:
        if number == 10:
            shown.wait(PATIENCE_S)
            release.wait(PATIENCE_S)

    loop = make(Cards(100, before), IdentityBackend(None, OPTIONS), stall_s=1, **mode)
    began = time.perf_counter()
    done = run(loop, lambda _: shown.set())
    took = time.perf_counter() - began
    abandoned = loop.abandoned
    release.set()
    end(loop)
    assert isinstance(done.error, SourceLost) and "no frame for" in str(done.error)
    assert abandoned and took < PATIENCE_S / 2 and len(done.numbers) >= 1


@pytest.mark.parametrize("sequential", [False, True])
def test_stop_is_answered_while_a_read_does_not_return(sequential: bool) -> None:
    """Bug: the sequential loop read on the main thread, and answered neither Ctrl-C nor SIGTERM."""
    release = threading.Event()

    def before(number: int) -> None:
        if number == 3:
            loop.stop()
            release.wait(PATIENCE_S)

    loop = make(Cards(100, before), IdentityBackend(None, OPTIONS), sequential=sequential)
    began = time.perf_counter()
    done = run(loop)
    took = time.perf_counter() - began
    release.set()
    end(loop)
    assert done.error is None and done.summary is not None and done.summary.ended == "stopped"
    assert took < PATIENCE_S / 2


def test_a_slow_backend_is_no_lost_source() -> None:
    """Every frame is waited for, so the source is not read for a while: that is no stall."""
    began: list[float] = []

    class Slow(IdentityBackend):
        def collect(self, out: np.ndarray) -> StageTimes:
            if not began:
                began.append(time.perf_counter())
                time.sleep(1.8)  # longer than stall_s, which no read of a card takes on any machine
            return super().collect(out)

    done = run(make(Cards(10), Slow(None, OPTIONS), stall_s=1.5))
    assert done.error is None and done.numbers == list(range(10))


def test_a_sink_that_raises_ends_the_session() -> None:
    def on_show(frame: LiveFrame) -> None:
        if frame.id == 5:
            raise SinkError("planted")

    source = Cards(100)
    done = run(make(source, IdentityBackend(None, OPTIONS)), on_show)
    assert isinstance(done.error, SinkError) and source.closed


def test_sinks_that_cannot_be_closed_are_reported() -> None:
    def finish() -> None:
        raise SinkError("planted")

    assert isinstance(
        run(make(Cards(3), IdentityBackend(None, OPTIONS)), None, finish).error, SinkError
    )


@pytest.mark.parametrize("moment", [0, 1, 50])
@pytest.mark.parametrize("realtime", [False, True])
def test_stop_ends_at_any_moment_and_every_frame_is_accounted_for(
    moment: int, realtime: bool
) -> None:
    loop = make(Cards(100_000), SleepingBackend(None, OPTIONS, ms=5), realtime=realtime)
    stopped: list[float] = []

    def stop() -> None:
        stopped.append(time.perf_counter())
        loop.stop()

    def on_show(_: LiveFrame) -> None:
        if loop.stats.shown == moment and not stopped:
            stop()

    if moment == 0:
        stop()
    done = run(loop, on_show)
    # The command's second is measured by experiments/measure/interrupts.py; a busy machine gets
    # more.
    assert time.perf_counter() - stopped[0] < PATIENCE_S / 2
    assert done.error is None and done.summary is not None and done.summary.ended == "stopped"
    made = done.summary
    if not loop.abandoned:
        shown_or_not = (
            made.shown
            + made.dropped_before_inference
            + made.dropped_before_display
            + made.under_way_at_end
        )
        assert made.captured == shown_or_not, "a frame is unaccounted for"


def test_stop_while_a_backend_is_stuck_leaves_it_behind() -> None:
    release = threading.Event()

    class Stuck(IdentityBackend):
        def collect(self, out: np.ndarray) -> StageTimes:
            loop.stop()
            release.wait(PATIENCE_S)
            return super().collect(out)

    loop = make(Cards(100), Stuck(None, OPTIONS))
    began = time.perf_counter()
    done = run(loop)
    took, abandoned = time.perf_counter() - began, loop.abandoned
    release.set()
    end(loop)
    assert took < PATIENCE_S / 2 and abandoned and done.finished == 1


class SlowToClose(IdentityBackend):
    """Closes only when told to, or in its own time, and then raises if it is to."""

    def __init__(self, closing: threading.Event, wait_s: float, error: str = "") -> None:
        super().__init__(None, OPTIONS)
        self._closing, self._wait_s, self._error = closing, wait_s, error

    def close(self) -> None:
        self._closing.wait(self._wait_s)
        if self._error:
            raise BackendError(self._error)


def test_a_session_that_ends_in_order_waits_for_its_backends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug: a close of over 0.6 s lost the backend's memory and last error, and left a thread."""
    monkeypatch.setattr("sdxs.common.live.threads.loop.JOIN_S", 0.0)
    loop = make(Cards(100), SlowToClose(threading.Event(), 0.2), frames=3)
    done = run(loop)
    assert done.error is None and done.summary is not None and not loop.abandoned
    assert len(done.summary.memory) == 1
    failed = run(make(Cards(3), SlowToClose(threading.Event(), 0.2, "planted on close")))
    assert isinstance(failed.error, BackendError) and "planted on close" in str(failed.error)


def test_stop_while_a_session_waits_for_its_backends_leaves_them_behind() -> None:
    closing = threading.Event()
    loop = make(Cards(3), SlowToClose(closing, PATIENCE_S))
    stopping = threading.Timer(0.2, loop.stop)
    stopping.start()
    began = time.perf_counter()
    run(loop)
    took, abandoned = time.perf_counter() - began, loop.abandoned
    closing.set()
    end(loop)
    stopping.join()
    assert abandoned and took < PATIENCE_S / 2


def test_summary_names_stages_latency_and_memory() -> None:
    done = run(make(Cards(30), SleepingBackend(None, OPTIONS, ms=4)))
    assert done.summary is not None
    stages = done.summary.stages_ms
    assert {
        "capture",
        "wait for inference",
        "backend",
        "inference",
        "wait for display",
        "display",
    } <= stages.keys()
    assert 4 <= stages["backend"].p50 < 400  # milliseconds, not seconds or nanoseconds
    assert done.summary.latency_ms.p99 >= done.summary.latency_ms.p50 >= 4
    assert done.summary.memory[0].keys() == {
        "active_bytes",
        "peak_bytes",
        "cache_bytes",
        "model_bytes",
    }
    assert done.summary.process_peak_bytes > 10e6


def test_a_slow_last_frame_is_no_lost_source() -> None:
    """Bug: an ended source was reported as lost while its last frame was being rendered."""
    loop = make(Cards(3), SleepingBackend(None, OPTIONS, ms=1200), realtime=True, stall_s=1.0)
    done = run(loop)
    assert done.error is None and done.numbers[-1] == 2


def test_pause_holds_in_the_sequential_loop_too() -> None:
    loop = make(Cards(30), IdentityBackend(None, OPTIONS), sequential=True)

    def on_show(frame: LiveFrame) -> None:
        if frame.id == 5:
            loop.pause(True)
            threading.Timer(0.2, loop.pause, (False,)).start()

    began = time.perf_counter()
    done = run(loop, on_show)
    assert time.perf_counter() - began >= 0.2 and done.numbers == list(range(30))


def test_an_unfinished_prompt_does_not_hold_up_the_end() -> None:
    """Bug: the interpreter waited for the encoder; the session reports the thread it left."""
    release = threading.Event()

    def encode(text: str) -> np.ndarray:
        release.wait(PATIENCE_S)
        return hidden_states(1)

    loop = Loop(
        Cards(100),
        [IdentityBackend(None, OPTIONS)],
        LoopOptions(SIZE, realtime=False, skip_threshold=-1),
        [Prompt("0", hidden_states(0))],
        FrameParams(),
        encode,
    )  # type: ignore[arg-type]
    loop.run(
        lambda frame: loop.set_prompt("new") and None if frame.id == 3 else None,
        lambda: None,
        lambda: None,
    )  # type: ignore[func-returns-value]
    abandoned = loop.abandoned
    release.set()
    end(loop)
    assert abandoned


@pytest.mark.parametrize("idle", ["paused", "no frames"])
def test_a_hosted_child_that_dies_with_nothing_to_do_is_reported_within_a_second(idle: str) -> None:
    # What a second is made of; on a busy machine it may take longer.
    assert IDLE_CHECK_S + DISPLAY_WAIT_S + JOIN_S < 1
    backend = HostedBackend(
        "identity", "sdxs.common.backend.identity:IdentityBackend", None, OPTIONS
    )
    silent = threading.Event()

    def before(number: int) -> None:
        if number == 5 and idle == "no frames":
            silent.wait(PATIENCE_S)

    loop = make(Cards(100_000, before), backend, realtime=True)
    pids: list[int] = []
    killed: list[float] = []
    noticed: list[float] = []

    def kill() -> None:
        killed.append(time.perf_counter())
        os.kill(pids[0], signal.SIGKILL)

    timer = threading.Timer(0.3, kill)

    def on_show(_: LiveFrame) -> None:
        if not pids:
            pids.append(backend.pid)  # it is 0 once the backend is closed, and 0 would be everybody
            loop.pause(idle == "paused")
            timer.start()

    # Before anything is waited for.
    done = run(loop, on_show, lambda: noticed.append(time.perf_counter()))
    silent.set()
    end(loop)
    timer.join()
    assert isinstance(done.error, BackendError) and "SIGKILL" in str(done.error)
    assert noticed[0] - killed[0] < PATIENCE_S / 2


def test_a_clip_waits_for_the_model() -> None:
    """Bug: a clip played away while the model loaded, and only its end was rendered."""
    read = threading.Event()
    read_while_loading: list[bool] = []

    class SlowToLoad(IdentityBackend):
        def load(self) -> None:
            read_while_loading.append(read.wait(0.5))
            super().load()

    done = run(make(Cards(20, lambda _: read.set()), SlowToLoad(None, OPTIONS), realtime=True))
    assert done.error is None and read_while_loading == [False]


def test_a_frame_that_comes_after_pause_is_not_shown_when_it_ends() -> None:
    """Bug: a frame that the backend waited for went in during a pause and came out seconds old."""
    backend, paused = Recording(), threading.Event()
    waits: list[int] = []

    def before(number: int) -> None:
        if number == 1:
            paused.wait(PATIENCE_S)
        if number == 20:
            loop.pause(False)

    loop = make(Cards(60, before), backend, realtime=True)
    take, entered = loop._captured.take_between, threading.Semaphore(0)

    def watched(earliest_ns: int, latest_ns: int) -> LiveFrame | None:
        entered.release()
        return take(earliest_ns, latest_ns)

    loop._captured.take_between = watched  # type: ignore[method-assign]

    def on_show(_: LiveFrame) -> None:
        if not waits:
            # It waits for the second frame.
            waits.extend(entered.acquire(timeout=PATIENCE_S) for _ in range(2))
            loop.pause(True)
            paused.set()

    done = run(loop, on_show)
    assert done.error is None and done.summary is not None and waits == [True, True]
    assert not set(range(1, 19)) & set(done.numbers), done.numbers
    summary = done.summary
    assert (
        summary.captured
        == 60
        == summary.shown + summary.dropped_before_inference + summary.dropped_before_display
    )


class Steered(Recording):
    """Keeps the encoder_hidden_states it had at each submit."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.at_submit: list[float] = []

    def set_conditioning(self, encoder_hidden_states: np.ndarray) -> None:
        super().set_conditioning(encoder_hidden_states)
        self.now = float(encoder_hidden_states[0, 0, 0])

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self.at_submit.append(self.now)
        super().submit(frame, edges)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_transition_takes_its_time_on_the_files_clock_and_loses_no_frame(
    sequential: bool,
) -> None:
    """Cards come at 1,000 a second, so 0.01 s are ten frames."""
    backend = Steered()
    result = run(
        make(
            Cards(40),
            backend,
            prompts=("1", "3"),
            hold=20,
            transition_s=0.01,
            sequential=sequential,
        )
    )
    assert result.numbers == list(range(40)) and result.prompts == ["1"] * 20 + ["3"] * 20
    steps = backend.at_submit
    assert steps[:20] == [1.0] * 20 and steps[30:] == [3.0] * 10
    assert steps[20] == 1.0 and steps[25] == pytest.approx(2.0, abs=1e-5)
    assert all(later >= earlier for earlier, later in itertools.pairwise(steps))
    assert np.diff(steps).max() < 0.31  # 1.5 times an even step at most
    assert result.turning == [20 <= n <= 30 for n in range(40)]  # what flicker figures leave out


def test_a_second_change_goes_on_from_where_the_first_has_got_to() -> None:
    backend = Steered()
    result = run(make(Cards(30), backend, prompts=("1", "3", "2"), hold=5, transition_s=0.01))
    steps = backend.at_submit
    assert result.numbers == list(range(30)) and 1.5 < steps[10] < 3.0
    assert np.abs(np.diff(steps)).max() < 0.4, "a jump where the second change began"


def test_without_a_transition_a_prompt_changes_at_once() -> None:
    backend = Steered()
    run(make(Cards(10), backend, prompts=("1", "3"), hold=5))
    assert backend.at_submit == [1.0] * 5 + [3.0] * 5
    assert [call for call in backend.calls if call[0] == "prompt"] == [
        ("prompt", 1.0),
        ("prompt", 3.0),
    ]


def test_unchanged_frames_are_rendered_while_a_transition_runs() -> None:
    """The picture is still, the prompt is not: nothing may be reused until it has arrived."""

    class Still(Cards):
        def read(self) -> np.ndarray | None:
            picture = super().read()
            return None if picture is None else np.zeros_like(picture)

    backend = Steered()
    loop = make(
        Still(40), backend, prompts=("1", "3"), hold=20, transition_s=0.01, skip_threshold=0
    )
    loop.run(lambda frame: None, lambda: None, lambda: None)
    assert backend.at_submit == pytest.approx(
        [1.0, *(1 + 2 * t * t * (3 - 2 * t) for t in np.linspace(0, 1, 11))], abs=1e-5
    )
