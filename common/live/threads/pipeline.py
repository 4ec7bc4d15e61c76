"""What the threads of a loop share: buffers, the slots between them, and how they begin and end."""

import threading
from collections import deque

from ..options import LoopOptions
from .frames import LiveFrame, Pool, Slot

MOST_IN_FLIGHT = 8


class Pipeline:
    """Buffers, two slots and three events; written by every thread of one loop.

    ready: the backends are loaded. resumed: no pause. ending: every thread is to return.
    refused: frames that came too late, their slot was closed. stopped: the user wants to leave; a
    plain flag, because a signal handler sets it.
    """

    def __init__(self, options: LoopOptions, outputs: int) -> None:
        """outputs: pictures per frame, one for each backend."""
        # One being captured, one in each slot, one being handed on, one on display, and those in
        # flight.
        self.pool = Pool(5 + MOST_IN_FLIGHT, options.size, outputs, bool(options.edges))
        self.captured: Slot[LiveFrame] = Slot(latest=options.realtime)
        self.rendered: Slot[LiveFrame] = Slot(latest=options.realtime)
        self.ready = threading.Event()
        self.ending = threading.Event()
        self.resumed = threading.Event()
        self.resumed.set()
        self.refused: deque[LiveFrame] = deque()
        self.stopped = False

    @property
    def paused(self) -> bool:
        return not self.resumed.is_set()

    def put(self, slot: Slot[LiveFrame], frame: LiveFrame) -> None:
        """Offer a frame to a slot; a frame that is replaced or refused goes back to the pool."""
        back = slot.put(frame)
        if back is frame:
            self.refused.append(frame)
        if back is not None:
            self.pool.give_back(back)

    def begin_to_end(self) -> None:
        """Wake every thread and tell it to return."""
        self.ending.set()
        self.resumed.set()
        self.ready.set()

    def fail(self) -> None:
        """Let nothing new in; what was rendered before can still be shown and recorded."""
        self.ready.set()
        self.captured.close()
        self.rendered.close()
