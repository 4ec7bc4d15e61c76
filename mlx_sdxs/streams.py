"""CPU streams of MLX, lent to one thread after the other.

A CPU stream is a thread that MLX never ends, `mx.clear_streams` included (mlx 0.32.4: 50 threads
that each used MLX left 50 threads). So no thread has a stream of its own: it borrows one, and the
next thread gets the same. Delete when MLX ends the thread of a stream that nobody uses.
"""

import threading

import mlx.core as mx

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

    The main thread keeps MLX's own.
    """
    if threading.current_thread() is threading.main_thread():
        return
    _mine.users += 1
    if _mine.lent is None:
        _mine.lent = _Lent()
        mx.set_default_stream(_mine.lent.stream)


def give_back() -> None:
    """Clear MLX's streams of the calling thread after its last user, except in the main thread."""
    if threading.current_thread() is threading.main_thread():
        return
    _mine.users -= 1
    if _mine.users > 0:
        return
    if _mine.lent is not None:
        mx.synchronize(_mine.lent.stream)
    # Without this a thread that used MLX mostly aborted the interpreter at exit.
    mx.clear_streams()
    _mine.lent, _mine.users = None, 0
