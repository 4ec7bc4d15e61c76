"""Frames on their way through the loop: numbered, time-stamped, in preallocated buffers."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from ...backend.protocol import FrameParams
from ...picture.size import FrameSize, Size
from ..plan import Planned

T = TypeVar("T")


@dataclass(slots=True)
class LiveFrame:
    """One captured picture and what became of it.

    camera: uint8 (H, W, 3) RGB. outputs: one such picture per backend. edges: what a ControlNet
    reads of the camera, uint8 (H, W), white on black; None where there is none. edge_kind: how they
    were drawn. turning: the prompt was still on its way to the next when this was rendered. `_ns`
    stamps are `time.perf_counter_ns`; `source_ns` is the time on the clock of the source, if it
    has one. similar: the picture equals the last one that was rendered. params, skip: what the
    backends and `Similarity` had; mirrored: so was the camera. planned: what a schedule changes
    with this frame, where every frame of a file is rendered.
    """

    camera: np.ndarray
    outputs: list[np.ndarray]
    id: int = -1
    captured_ns: int = 0
    similar: bool = False
    prompt: str = ""
    stage_ns: dict[str, int] = field(default_factory=dict)
    edges: np.ndarray | None = None
    edge_kind: str = ""
    turning: bool = False
    source_ns: int | None = None
    params: FrameParams = FrameParams()
    skip: float = 0.0
    mirrored: bool = False
    planned: Planned | None = None


class Pool:
    """A fixed set of frames; taking one when all are out waits for one to come back."""

    def __init__(self, count: int, size: Size, outputs: int, edges: bool = False) -> None:
        shape = FrameSize.of(size).shape

        def picture() -> np.ndarray:
            return np.zeros((*shape, 3), np.uint8)

        self.count = count
        self._free = [
            LiveFrame(picture(), [picture() for _ in range(outputs)]) for _ in range(count)
        ]
        for frame in self._free if edges else ():
            frame.edges = np.zeros(shape, np.uint8)
        self._changed = threading.Condition()
        self._closed = False

    def take(self) -> LiveFrame | None:
        """Return a free frame, or None once the pool is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            return None if self._closed else self._free.pop()

    def give_back(self, frame: LiveFrame) -> None:
        with self._changed:
            self._free.append(frame)
            self._changed.notify()

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Slot(Generic[T]):
    """Hands the latest item from one thread to another.

    With `latest` (live), an item that was not fetched in time is replaced and counted as dropped;
    without (files, every frame), `put` waits until the slot is empty.
    """

    def __init__(self, latest: bool = True) -> None:
        self._latest = latest
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.put_count = 0
        self.dropped = 0

    def put(self, item: T) -> T | None:
        """Offer an item; return the one that comes back: a replaced one, or this if closed."""
        with self._changed:
            if not self._latest:
                self._changed.wait_for(lambda: not self._items or self._closed)
            if self._closed:
                return item
            replaced = self._items.popleft() if self._items else None
            self._items.append(item)
            self.put_count += 1
            self.dropped += replaced is not None
            self._changed.notify_all()
            return replaced

    def take(self, timeout_s: float | None = None) -> T | None:
        """Wait for an item. None after `timeout_s`, or when the slot is closed and empty."""
        timeout_s = threading.TIMEOUT_MAX if timeout_s is None else timeout_s
        return self.take_between(0, time.perf_counter_ns() + round(timeout_s * 1e9))

    def take_between(self, earliest_ns: int, latest_ns: int) -> T | None:
        """Return the newest item at `earliest_ns`, or the first until `latest_ns`, or None."""
        with self._changed:
            pause = (earliest_ns - time.perf_counter_ns()) / 1e9
            if pause > 0:
                self._changed.wait_for(lambda: self._closed, pause)
            patience = (latest_ns - time.perf_counter_ns()) / 1e9
            if not self._items and patience > 0:
                self._changed.wait_for(
                    lambda: self._items or self._closed, min(patience, threading.TIMEOUT_MAX)
                )
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def count_drop(self) -> None:
        """Account for an item that was taken and then had no use."""
        with self._changed:
            self.dropped += 1

    def close(self, discard: bool = False) -> list[T]:
        """End the hand-over: nothing more goes in.

        Items inside can still be taken unless discarded.
        """
        with self._changed:
            self._closed = True
            left = list(self._items) if discard else []
            if discard:
                self._items.clear()
            self._changed.notify_all()
            return left

    @property
    def finished(self) -> bool:
        """Closed and empty: nothing will ever come out again."""
        with self._changed:
            return self._closed and not self._items
