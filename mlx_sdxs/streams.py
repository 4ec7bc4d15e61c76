"""CPU streams of MLX, lent to one thread after the other.

A CPU stream is a thread that MLX never ends, `mx.clear_streams` included (mlx 0.32.4: 50 threads
that each used MLX left 50 threads). So no thread has a stream of its own: it borrows one, and the
next thread gets the same. Delete when MLX ends the thread of a stream that nobody uses.
"""

import atexit
import threading
from queue import SimpleQueue
from typing import Any

import mlx.core as mx

from ..common.backend.home import Home

JOIN_S = 5.0  # that a thread may take to end

_homes: list[Home] = []  # one: the process that used MLX first
_free: list[mx.Stream] = []  # appending and popping are atomic


class _Lent:
    """One stream; free again when nothing refers to this, as after the end of its thread."""

    def __init__(self) -> None:
        try:
            self.stream = _free.pop()
        except IndexError:
            self.stream = mx.new_thread_unsafe_stream(mx.cpu)

    def __del__(self) -> None:
        if stream := self.__dict__.get("stream"):
            _free.append(stream)


class _OfThread(threading.local):
    lent: _Lent | None = None
    users = 0


_mine = _OfThread()


def borrow() -> None:
    """Give the calling thread a CPU stream as its default, once for all of its users.

    The main thread keeps MLX's own. Raises BackendError in a fork of a process that used MLX.
    """
    check_fork()
    if threading.current_thread() is threading.main_thread():
        return
    _mine.users += 1
    if _mine.lent is None:
        _mine.lent = _Lent()
        mx.set_default_stream(_mine.lent.stream)


def give_back() -> None:
    """Clear MLX's streams of the calling thread after its last user, except in the main thread."""
    if threading.current_thread() is threading.main_thread() or is_fork():
        return
    _mine.users -= 1
    if _mine.users > 0:
        return
    if _mine.lent is not None:
        mx.synchronize(_mine.lent.stream)
    # Without this a thread that used MLX mostly aborted the interpreter at exit.
    mx.clear_streams()
    _mine.lent, _mine.users = None, 0


def check_fork() -> None:
    """Raise BackendError in a fork of a process that used MLX: every call would wait for ever."""
    if not _homes:
        _homes.append(Home())
    _homes[0].check("mlx")


def is_fork() -> bool:
    """Tell whether this is a fork of a process that used MLX, which it must not touch."""
    return bool(_homes) and not _homes[0].here


_ending: list[tuple[threading.Thread, "SimpleQueue[Any]"]] = []


def end_at_exit(thread: threading.Thread, asked: "SimpleQueue[Any]") -> None:
    """Have a thread that uses MLX ended, by None in its queue, if nobody has ended it before.

    One that still runs would abort the exit.
    """
    _ending[:] = [each for each in _ending if each[0].is_alive()]
    _ending.append((thread, asked))


@atexit.register
def _end_all() -> None:
    if is_fork():  # which has none of them
        return
    for _, asked in _ending:
        asked.put(None)
    for thread, _ in _ending:
        thread.join(JOIN_S)
