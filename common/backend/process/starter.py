"""Start child processes that end with this one, also while they are stopped.

Linux sends a child SIGKILL when the thread ends that started it (PR_SET_PDEATHSIG), and SIGKILL
alone ends a stopped process. So one thread starts every child, and lives as long as this process:
the thread of a session ends before a backend that is kept for the next one.

macOS has no such signal. There a child learns of its parent's end from a pipe, which it cannot
while it is stopped. Stopped by Ctrl-Z and orphaned, it gets SIGHUP and SIGCONT from the system, as
every stopped group does, and ends. Stopped by SIGSTOP alone it stays, and ends on SIGCONT. So does
the resource tracker that Python's multiprocessing starts for itself, on Linux, too.
"""

import ctypes
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

NAME = "process-starter"
PARENTS_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1
_WORK: "queue.SimpleQueue[tuple[Callable[[], None], Future[None]]]" = queue.SimpleQueue()
_threads: list[threading.Thread] = []
_lock = threading.Lock()


def start_process(start: Callable[[], None]) -> None:
    """Call `start`, on Linux in the thread that never ends; raises what it raises."""
    if sys.platform != "linux":
        start()
        return
    begin_to_start()
    done: Future[None] = Future()
    _WORK.put((start, done))
    done.result()


def begin_to_start() -> None:
    """Start the thread that starts children, once for this process; none on macOS."""
    if sys.platform != "linux":
        return
    with _lock:
        if not _threads or not _threads[0].is_alive():  # the first, or in a fork
            thread = threading.Thread(target=_serve, name=NAME, daemon=True)
            thread.start()
            _threads[:] = [thread]


def _serve() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)  # children inherit it
    while True:
        start, done = _WORK.get()
        try:
            start()
        except BaseException as error:  # handed to the caller
            done.set_exception(error)
        else:
            done.set_result(None)
        del start, done


def die_with_starter() -> None:
    """Let the system end this child when the thread that started it ends; nothing on macOS."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
