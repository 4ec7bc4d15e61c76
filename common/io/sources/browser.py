"""The camera of a browser: pictures that a page of ours sends. The newest wins."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...backend import copies
from ...errors import UsageError
from ...picture.jpeg import jpeg_size
from ...picture.opencv import cv2
from ...picture.size import FrameSize

SILENCE_S = 0.25  # then the last picture is handed out again, so that the session goes on
MOST_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class SentPicture:
    """A picture on its way from a page.

    jpeg: not yet decoded. sender: any name of the page and its number of the picture. done: called
    once with '' when it is taken or replaced, else with the reason why not; from any thread.
    """

    jpeg: bytes
    sender: tuple[int, int]
    done: Callable[[str], None]


class BrowserCamera:
    """Hands out what `offer` was given last.

    Until a page sends one, and while none does, it hands out a grey or the last picture.
    """

    name, fps, length, paced = "browser", 30.0, None, False

    def __init__(self, size: FrameSize) -> None:
        self._picture: np.ndarray = np.full((*size.shape, 3), 96, np.uint8)
        self._arrived = threading.Condition()
        self._next: SentPicture | None = None
        self._closed = False
        self._began_ns = time.perf_counter_ns()
        self._senders: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.stamp_s = 0.0

    def offer(self, sent: SentPicture) -> None:
        """Take a picture in place of one that still waits. Any thread; decodes nothing."""
        try:
            jpeg_size(sent.jpeg)
        except UsageError as error:
            sent.done(str(error))
            return
        with self._arrived:
            replaced, self._next = self._next, sent
            self._arrived.notify()
        if replaced:
            replaced.done("")

    def sender(self, source_ns: int | None) -> tuple[int, int] | None:
        """Return who sent the picture of a time, unless it was handed out again. Any thread."""
        return None if source_ns is None else self._senders.get(source_ns)

    def read(self) -> np.ndarray | None:
        with self._arrived:
            self._arrived.wait_for(lambda: self._next or self._closed, SILENCE_S)
            sent, self._next = self._next, None
        self.stamp_s = (time.perf_counter_ns() - self._began_ns) / 1e9
        if sent is not None:
            self._decode(sent)
        copies.count("source", self._picture.nbytes)
        return None if self._closed else self._picture

    def close(self) -> None:
        with self._arrived:
            self._closed = True
            self._arrived.notify()

    def _decode(self, sent: SentPicture) -> None:
        # sent.jpeg is turned by nobody: its pixels are as the page drew them
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            decoded = cv2.imdecode(np.frombuffer(sent.jpeg, np.uint8), flags)
        except cv2.error:
            decoded = None
        if decoded is None:
            sent.done("the picture cannot be decoded; send a baseline JPEG")
            return
        self._picture = decoded
        self._senders[round(self.stamp_s * 1e9)] = sent.sender
        while len(self._senders) > MOST_REMEMBERED:
            self._senders.popitem(last=False)
        sent.done("")
