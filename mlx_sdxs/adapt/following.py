"""Fuse LoRAs under new weights beside the frames, on a thread of its own; the latest wins."""

import queue
import threading
import weakref
from collections.abc import Callable
from typing import TypeAlias

from ...common.adapt.mix import Weights
from .. import streams
from .lora import Fused

Asked: TypeAlias = "queue.SimpleQueue[Weights | None]"


class Follower:
    """A thread that fuses. It does not refer to this object, and ends with it, closed or not."""

    def __init__(self, fuse: Callable[[Weights], Fused]) -> None:
        """Start the thread. fuse: called on it, see `LiveLoras.fuse`."""
        self._asked: Asked = queue.SimpleQueue()
        self._done: list[Fused | BaseException] = []
        self._thread = threading.Thread(
            target=_work, args=(self._asked, self._done, fuse), name="sdxs-mlx-lora", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._asked.put, None).atexit = False
        streams.end_at_exit(self._thread, self._asked)

    def ask(self, weights: Weights) -> None:
        """Ask for weights; earlier ones that nobody began with are given up."""
        self._asked.put(weights)

    def take(self) -> Fused | None:
        """Return what is ready, the latest, or None. Raises what fusing raised."""
        found = None
        while self._done:
            found = self._done.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """End the thread after what it has begun."""
        self._asked.put(None)
        self._thread.join(streams.JOIN_S)
        self._done.clear()


def _work(
    asked: Asked, done: list[Fused | BaseException], fuse: Callable[[Weights], Fused]
) -> None:
    streams.borrow()
    try:
        while (weights := _latest(asked)) is not None:
            try:
                done.append(fuse(weights))
            except Exception as error:  # `take` raises it
                done.append(error)
    finally:
        del fuse
        streams.give_back()


def _latest(asked: Asked) -> Weights | None:
    weights = asked.get()
    while weights is not None and not asked.empty():
        weights = asked.get()
    return weights
