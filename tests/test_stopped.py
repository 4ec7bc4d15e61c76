"""A process that was stopped (Ctrl-Z, SIGSTOP): what it must not count, and what must not stay."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process import child
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.errors import SourceLost
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live.look import Look
from sdxs.common.live.options import LoopOptions
from sdxs.common.live.parameters import LiveParameters
from sdxs.common.live.stats import Stats
from sdxs.common.live.threads import capture as capture_module
from sdxs.common.live.threads import display as display_module
from sdxs.common.live.threads.admission import Admission
from sdxs.common.live.threads.capture import Capture
from sdxs.common.live.threads.frames import LiveFrame
from sdxs.common.live.threads.loop import Loop, Prompt
from sdxs.common.live.threads.pipeline import Pipeline
from sdxs.common.live.viewer import Viewer
from sdxs.common.patience import Patience
from sdxs.common.picture.size import FrameSize
from sdxs.common.testing.fakes import SleepingBackend

SIZE = FrameSize(64, 64)
IDENTITY = "sdxs.common.backend.identity:IdentityBackend"
linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has no such signal")


class Clock:
    """A clock of seconds that a test sets; also of nanoseconds."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s

    def ns(self) -> int:
        return round(self.s * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_patience_counts_what_it_could_look_at(clock: Clock) -> None:
    patience = Patience(2.0, clock)
    for _ in range(3):
        clock.s += 0.4
        patience.waited_s()
    assert patience.left_s() == pytest.approx(0.8)
    clock.s += 3600  # stopped
    assert patience.left_s() == pytest.approx(0.3)
    clock.s += 0.3
    assert patience.left_s() == pytest.approx(0) and patience.waited_s() == pytest.approx(2.0)


def test_a_camera_is_not_lost_by_ctrl_z_and_fg(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a read that was under way had taken ten seconds, and the session ended."""
    monkeypatch.setattr(capture_module, "Patience", partial(Patience, now=clock))
    options = LoopOptions(SIZE, stall_s=10.0)
    capture = Capture(Synthetic(SIZE), Pipeline(options, 1), options, Stats())
    capture._reading_since_ns = 1
    capture.check_stall()
    clock.s += 12  # stopped
    capture.check_stall()
    for _ in range(90):  # and then really silent
        clock.s += 0.1
        capture.check_stall()
    clock.s += 0.4
    capture.check_stall()
    clock.s += 0.2
    with pytest.raises(SourceLost, match="has delivered no frame for 10 s"):
        capture.check_stall()


def frame() -> LiveFrame:
    return LiveFrame(np.zeros((64, 64, 3), np.uint8), [np.zeros((64, 64, 3), np.uint8)])


def test_figures_leave_out_that_the_process_was_stopped() -> None:
    stats, shown = Stats(), frame()
    for number in range(100):
        stop_ns = 10_000_000_000 if number >= 50 else 0
        if number == 50:
            stats.continued(49 * 50_000_000, 49 * 50_000_000 + stop_ns)
        shown.captured_ns = number * 50_000_000 + stop_ns
        shown_ns = shown.captured_ns + 30_000_000
        if number == 50:  # was under way
            shown.captured_ns -= stop_ns
        stats.frame_shown(shown, shown_ns)
    summary = stats.summary(0, (0, 0), "test")
    assert summary.shown == 100 and summary.fps == pytest.approx(20)
    assert summary.latency_ms.p99 == pytest.approx(30) and len(stats.latency_ms) == 99


def test_the_display_says_how_long_unless_it_was_its_own_work(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display_module.time, "perf_counter_ns", clock.ns)
    states = np.zeros((1, 77, 64), np.float32)
    loop = Loop(
        Synthetic(SIZE),
        [SleepingBackend(None, BackendOptions(SIZE))],
        LoopOptions(SIZE),
        [Prompt("a", states)],
        FrameParams(),
        lambda text: states,
    )
    clock.s += 0.05
    loop.continued()  # SIGCONT alone
    assert loop.stats.stopped_ns == 0
    clock.s += 12
    loop.continued()
    assert loop.stats.stopped_ns == 12_000_000_000 and loop.stats.continued_ns == clock.ns()
    # The signal went to another thread first: this one looks up before the handler runs.
    clock.s += 3
    loop.display._look()
    clock.s += 0.001
    loop.continued()
    assert loop.stats.stopped_ns == 15_000_000_000
    loop.continued()
    assert loop.stats.stopped_ns == 15_000_000_000  # counted once
    clock.s += 2
    loop.display._look()  # its own work, say
    clock.s += 0.4
    loop.display._look()
    clock.s += 0.4
    loop.display._look()
    clock.s += 0.4
    loop.continued()
    assert loop.stats.stopped_ns == 15_000_000_000  # too long ago to be this stop


class Times:
    """A sink that keeps the times it is given."""

    def __init__(self) -> None:
        self.ns: list[int] = []

    def write(self, picture: np.ndarray, shown_ns: int) -> None:
        self.ns.append(shown_ns)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("paused", [False, True])
def test_a_recording_goes_on_where_it_was(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    """Bug: it repeated its last picture for as long as the process was stopped."""
    monkeypatch.setattr("sdxs.common.live.viewer.time.perf_counter_ns", clock.ns)
    stats, sink = Stats(), Times()
    viewer = Viewer(SIZE, Look(), stats, [sink], None)
    viewer.show(frame())
    clock.s += 1
    if paused:
        viewer.use(LiveParameters(pause=True))
    stopped_ns = clock.ns()
    clock.s += 10
    stats.continued(stopped_ns, clock.ns())
    if paused:
        viewer.use(LiveParameters())
    clock.s += 1
    viewer.show(frame())
    assert sink.ns[1] - sink.ns[0] == 2_000_000_000


def test_admission_measures_anew() -> None:
    admission = Admission(2)
    admission.submitted(0)
    admission.collected(10_000_000_000)  # stopped meanwhile
    admission.forget_times()
    admission.submitted(20_000_000_000)
    window = admission.window_ns()
    assert window is not None and window[1] < 20_100_000_000


# Children.


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_closing_ends_a_stopped_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "CLOSE_TIMEOUT_S", 0.3)
    backend = HostedBackend("fake", IDENTITY, None, BackendOptions(SIZE))
    backend.load()
    pid = backend.pid
    os.kill(pid, signal.SIGSTOP)
    backend.close()
    assert not is_running(pid)


@pytest.fixture
def parent(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that hosts a backend, loaded by a thread that has ended; it says the child's id."""
    code = f"""
import sys, threading
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
backend = HostedBackend("fake", "{IDENTITY}", None, BackendOptions(64))
thread = threading.Thread(target=backend.load)
thread.start()
thread.join()
import numpy as np
frame = np.zeros((64, 64, 3), np.uint8)
backend.submit(frame)
backend.collect(frame)  # it outlives the thread that loaded it
print(backend.pid, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@linux
def test_a_stopped_child_ends_with_a_parent_that_is_killed(parent: "subprocess.Popen[str]") -> None:
    """Bug: it waited for SIGCONT, which nobody was left to send."""
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, signal.SIGSTOP)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "the child is still there"


SESSION = """
import sys, time
import numpy as np
from sdxs.commands.console import interrupts
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.live.options import LoopOptions
from sdxs.common.live.threads.loop import Loop, Prompt
from sdxs.common.picture.size import FrameSize
from sdxs.common.testing.fakes import SleepingBackend

class Camera:
    name, fps, length, paced = "a camera", 20.0, None, False
    def read(self):
        time.sleep(0.05)  # a stop falls into it
        return np.zeros((64, 64, 3), np.uint8)
    def close(self):
        pass

size, states = FrameSize(64, 64), np.zeros((1, 77, 64), np.float32)
loop = Loop(
    Camera(),
    [SleepingBackend(None, BackendOptions(size))],
    LoopOptions(size, stall_s=1.0),
    [Prompt("a", states)],
    FrameParams(),
    lambda text: states,
)
def show(frame):
    if loop.stats.shown == 5:
        print("going", flush=True)
    if loop.stats.shown >= 20 and loop.stats.stopped_ns:  # however late the stop comes
        loop.stop()
with interrupts(loop.stop, loop.continued):
    summary = loop.run(show, lambda: None, lambda: None)
times = summary.seconds, summary.fps, summary.latency_ms.p99, loop.stats.stopped_ns / 1e9
print(loop.stats.shown, *times, flush=True)
"""


def test_a_session_goes_on_after_it_was_stopped() -> None:
    """As by Ctrl-Z and `fg`, for longer than a camera may be silent."""
    process = subprocess.Popen(
        [sys.executable, "-c", SESSION], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2.5)
    os.kill(process.pid, signal.SIGCONT)
    said, complained = process.communicate(timeout=60)
    assert (process.returncode, complained) == (0, "")
    shown, seconds, fps, latency_ms, stopped_s = map(float, said.split())
    assert 2.0 < stopped_s < 4.0 and latency_ms < 2000
    assert fps > shown / (seconds + 2.0)
