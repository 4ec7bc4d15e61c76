"""What a system runs out of: one line, soon, and with the right remedy."""

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sdxs import api, cli
from sdxs.common import limits
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint import frame_sizes
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import ConfigError, ShortageError, UsageError, WeightsError
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.limits import shortage, shortages
from sdxs.common.live.options import LoopOptions
from sdxs.common.live.threads.loop import Loop, Prompt
from sdxs.common.picture.size import FrameSize, read_size
from sdxs.common.testing.fakes import SleepingBackend

SIZE = 64
MEMORY, THREADS, FILES = "memory ran out", "no further thread or process", "no further file"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), MEMORY),
        (np.exceptions.AxisError("no limit at all"), None),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (RuntimeError("std::bad_alloc"), MEMORY),
        (RuntimeError("[malloc] Unable to allocate 123 bytes."), MEMORY),
        (RuntimeError("[cuda] out of memory"), MEMORY),
        (ImportError("libx.so: failed to map segment from shared object"), MEMORY),
        (RuntimeError("can't start new thread"), THREADS),
        (RuntimeError("thread constructor failed: Resource temporarily unavailable"), THREADS),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), THREADS),
        (OSError(errno.EMFILE, "Too many open files", "/a/file"), FILES),
        (OSError(errno.ENFILE, "Too many open files in system"), FILES),
        (Exception("I/O error: Too many open files (os error 24)"), FILES),
        (OSError(errno.ENOENT, "No such file: out of memory.txt"), None),
        (ValueError("shapes (2,) and (3,)"), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_every_way_to_say_that_something_ran_out(error: BaseException, says: str | None) -> None:
    found = shortage(error)
    assert found is None if says is None else says in str(found) and "\n" not in str(found)


def raised_behind(behind: Exception) -> WeightsError:
    try:
        try:
            raise behind
        except Exception:
            raise WeightsError("unet.safetensors is damaged; pull it again") from None
    except WeightsError as error:
        return error


def test_a_limit_is_not_hidden_behind_an_error_of_ours() -> None:
    """Bug: too many open files was a damaged checkpoint, to be pulled again."""
    hidden = raised_behind(OSError(errno.EMFILE, "Too many open files"))
    found = shortage(hidden)
    assert found is not None and "pull" not in str(found) and "ulimit -n" in str(found)
    assert shortage(raised_behind(ValueError("offset"))) is None
    assert shortage(ConfigError("no such block")) is None
    with pytest.raises(ShortageError) as caught, shortages():
        raise hidden
    assert shortage(caught.value) is None and caught.value.__cause__ is hidden


def test_what_is_no_limit_passes_the_edge_as_it_is() -> None:
    error = ValueError("a mistake of ours")
    with pytest.raises(ValueError, match="a mistake of ours") as caught, shortages():
        raise error
    assert caught.value is error


def test_the_command_line_says_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(**_: object) -> None:
        raise raised_behind(MemoryError("512 MB"))

    monkeypatch.setattr(cli, "app", lambda: run)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.count("\n") == 1
    assert said.startswith("error: memory ran out (512 MB)")


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the system refuse every thread whose name starts so."""
    start = threading.Thread.start

    def refuse(name: str) -> None:
        def started(self: threading.Thread) -> None:
            if self.name.startswith(name):
                raise RuntimeError("can't start new thread")
            start(self)

        monkeypatch.setattr(threading.Thread, "start", started)

    return refuse


def test_a_lane_without_a_thread(tiny_sdxs: Checkpoint, no_thread: Callable[[str], None]) -> None:
    no_thread("sdxs-mlx-1")
    before = set(threading.enumerate())
    with pytest.raises(ShortageError, match=THREADS):
        api.open_model(str(tiny_sdxs.folder), "mlx", SIZE, settings={"lanes": 2})
    for thread in set(threading.enumerate()) - before:  # of lane 0, which has begun
        thread.join(60)
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("name", ["sdxs-capture", "sdxs-inference", "sdxs-prompt"])
def test_a_session_without_a_thread(name: str, no_thread: Callable[[str], None]) -> None:
    size = FrameSize(SIZE, SIZE)
    states = np.zeros((1, 77, 64), np.float32)
    backend = SleepingBackend(None, BackendOptions(size))
    loop = Loop(
        Synthetic(size),
        [backend],
        LoopOptions(size, frames=5),
        [Prompt("a", states)],
        FrameParams(),
        lambda text: states,
    )
    no_thread(name)
    with pytest.raises(RuntimeError) as caught:
        loop.run(lambda frame: loop.set_prompt("b") and None, lambda: None, lambda: None)
    assert THREADS in str(shortage(caught.value)) and not loop.abandoned


@pytest.fixture
def no_descriptor() -> Iterator[Callable[[int], None]]:
    """Let the system open no more than so many further files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave(count: int) -> None:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, before[1]))

    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("left", [0, 1])
def test_no_further_file(
    tiny_sdxs: Checkpoint, no_descriptor: Callable[[int], None], left: int
) -> None:
    with api.open_model(str(tiny_sdxs.folder), "mlx", SIZE) as model:
        no_descriptor(left)
        with pytest.raises(ShortageError, match=FILES):
            model(np.zeros((SIZE, SIZE, 3), np.uint8), f"a prompt never met, {left}")


@pytest.mark.not_in_macos_shape(reason="the addresses in use are read from /proc")
def test_addresses_that_a_limit_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX and OpenBLAS end the process where they get none."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (used + 10**9, -1))
    with pytest.raises(ShortageError, match=r"mlx needs 2\.0 GB of addresses.*ulimit -v"):
        limits.check_address_space("mlx", 2 * 10**9)
    limits.check_address_space("mlx", 10**8)
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, -1))
    limits.check_address_space("mlx", 10**18)


# A size that no memory holds.


@pytest.mark.parametrize("size", [FrameSize(2**17, 2**17), FrameSize(2**20, 2**13)])
def test_a_size_that_no_memory_holds_is_refused_with_one_that_fits(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch, size: FrameSize
) -> None:
    monkeypatch.setattr(frame_sizes, "memory_bytes", lambda: 16 * 10**9)
    with pytest.raises(UsageError, match=r"takes at least .* GB, and there are 16\.0 GB") as said:
        tiny_sdxs.check_size(size)
    fits = read_size(str(said.value).partition("could fit is ")[2].partition(",")[0][7:])
    tiny_sdxs.check_size(fits)
    assert fits.width / fits.height == pytest.approx(size.width / size.height, rel=0.05)
    larger = FrameSize(fits.width + fits.width // 8 // 32 * 32, fits.height * 9 // 8 // 32 * 32)
    with pytest.raises(UsageError, match="takes at least"):
        tiny_sdxs.check_size(larger)


def test_what_computes_in_float32_takes_twice_as_much(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = FrameSize(1024, 1024)
    half = frame_sizes.frame_bytes(tiny_sdxs.unet, tiny_sdxs.vae, size, 2)
    monkeypatch.setattr(frame_sizes, "memory_bytes", lambda: half)
    tiny_sdxs.check_size(size)
    with pytest.raises(UsageError, match="takes at least"):
        tiny_sdxs.check_size(size, value_bytes=4)


# A fork.

FORKS = f"""
import multiprocessing, os, signal, sys
import numpy as np
from sdxs.api import open_model
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.errors import BackendError

frame = np.zeros(({SIZE}, {SIZE}, 3), np.uint8)

def refused(*calls):
    signal.alarm(60)  # a hang ends with a signal
    for call in calls:
        try:
            call()
        except BackendError as error:
            assert "this is its fork" in str(error), error
        else:
            raise AssertionError("not refused")
    model.close()
    hosted.close()

if __name__ == "__main__":
    model = open_model(sys.argv[1], "mlx", {SIZE}, settings={{"lanes": 2}})
    hosted = HostedBackend(
        "there", "sdxs.common.backend.identity:IdentityBackend", None, BackendOptions({SIZE})
    )
    hosted.load()
    uses = (
        lambda: model(frame, "a"),
        lambda: open_model(sys.argv[1], "mlx", {SIZE}),
        lambda: hosted.submit(frame),
        lambda: hosted.set_conditioning(np.zeros((1, 77, 64), np.float32)),
    )
    if not (pid := os.fork()):
        refused(*uses)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    child = multiprocessing.get_context("fork").Process(target=refused, args=uses)
    child.start()
    child.join()
    assert child.exitcode == 0
    before = model(frame, "a")
    hosted.submit(frame)
    hosted.collect(frame.copy())
    hosted.close()
    model.close()
"""


def test_a_fork_is_refused_what_its_parent_loaded_and_the_parent_goes_on(
    tiny_sdxs: Checkpoint, tmp_path: Path
) -> None:
    """Bug: a fork waited for ever for threads that it does not have."""
    script = tmp_path / "forks.py"
    script.write_text(FORKS)
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_sdxs.folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_threads_are_counted_before_a_library_aborts_for_want_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, left = threading.active_count(), [3]
    begin = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        begin(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ShortageError, match="mlx needs 4, there are 3.*ulimit -u"):
        limits.check_threads("mlx", 4)
    left[0] = 4
    limits.check_threads("mlx", 4)
    assert threading.active_count() == before and not left[0]
