"""Pictures on their way from the loop to the pages: the newest wins, and nobody waits for anybody.

The main thread copies each frame into one of three sets of buffers; the encoder's thread turns the
newest into JPEGs while somebody can take them.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..backend import copies
from ..live.threads.frames import LiveFrame
from ..picture.jpeg import jpeg
from ..picture.opencv import cv2
from ..picture.size import FrameSize

PICTURE, CAMERA, EDGES = "picture", "camera", "edges"


@dataclass(slots=True)
class _Buffers:
    pictures: dict[str, np.ndarray]
    id: int = -1
    captured_ns: int = 0
    prompt: str = ""
    source_ns: int | None = None


@dataclass(slots=True)
class Encoded:
    """One frame as JPEGs, by layer.

    sender: the page and number of the camera's picture, where a page sends them.
    """

    id: int
    captured_ns: int
    prompt: str
    layers: dict[str, bytes]
    sender: tuple[int, int] | None = None
    _messages: dict[tuple[str, ...], bytes] = field(default_factory=dict)

    def message(self, wanted: frozenset[str]) -> bytes:
        """Return the binary message for a page: 4 bytes with the length of a JSON head, little
        endian, the head, and the JPEGs in the head's order.
        """
        names = tuple(name for name in self.layers if name in wanted)
        if names not in self._messages:
            head = {
                "frame": self.id,
                "age_ms": round((time.perf_counter_ns() - self.captured_ns) / 1e6, 1),
                "prompt": self.prompt,
                "layers": {name: len(self.layers[name]) for name in names},
                "sender": self.sender and {"client": self.sender[0], "picture": self.sender[1]},
            }
            packed = json.dumps(head).encode()
            parts = (self.layers[name] for name in names)
            self._messages[names] = b"".join([len(packed).to_bytes(4, "little"), packed, *parts])
        return self._messages[names]


class Screen:
    """Where the loop leaves its newest frame and the encoder finds it."""

    def __init__(self, size: FrameSize, outputs: int, edges: bool) -> None:
        """outputs: backends side by side. edges: frames carry edges."""
        self.layers = (
            PICTURE,
            *(f"{PICTURE} {number}" for number in range(2, outputs + 1)),
            CAMERA,
            *([EDGES] if edges else []),
        )

        def buffers() -> _Buffers:
            shape = size.shape
            made = {name: np.zeros((*shape, 3), np.uint8) for name in self.layers}
            return _Buffers(made | ({EDGES: np.zeros(shape, np.uint8)} if edges else {}))

        self._back, self._ready, self._front = buffers(), buffers(), buffers()
        self._changed = threading.Condition()
        self._fresh = self._busy = self._closed = False
        self._wanted: frozenset[str] = frozenset()
        self._encoded: frozenset[str] = frozenset()

    # The main thread.

    def show(self, frame: LiveFrame) -> None:
        """Copy a frame; the lock is held for a swap alone."""
        back = self._back
        back.id, back.captured_ns, back.prompt = frame.id, frame.captured_ns, frame.prompt
        back.source_ns = frame.source_ns
        sources = {CAMERA: frame.camera, EDGES: frame.edges} | {
            PICTURE if number == 1 else f"{PICTURE} {number}": output
            for number, output in enumerate(frame.outputs, 1)
        }
        for name, kept in back.pictures.items():
            if (source := sources.get(name)) is not None:
                np.copyto(kept, source)
        copies.count("kept for the page", sum(each.nbytes for each in back.pictures.values()))
        with self._changed:
            self._back, self._ready = self._ready, back
            self._fresh = True
            self._changed.notify()

    # The server's thread.

    def want(self, layers: frozenset[str]) -> None:
        """Say which layers somebody can take now."""
        if layers != self._wanted:
            with self._changed:
                self._wanted = layers
                self._changed.notify()

    def delivered(self) -> None:
        """Let the encoder go on to the next frame."""
        with self._changed:
            self._busy = False
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # Any thread.

    def newest(self) -> np.ndarray | None:
        """Return a copy of the newest picture, uint8 (H, W, 3) RGB; None before the first."""
        with self._changed:
            newest = self._ready if self._fresh else self._front
            return None if newest.id < 0 else newest.pictures[PICTURE].copy()

    # The encoder's thread.

    def run(
        self, deliver: Callable[[Encoded], None], sender: Callable[[int | None], object]
    ) -> None:
        """Encode what is wanted until `close`; one frame is under way at a time."""
        while (wanted := self._next()) is not None:
            front = self._front
            layers = {name: jpeg(front.pictures[name]) for name in self.layers if name in wanted}
            who = sender(front.source_ns)
            deliver(
                Encoded(
                    front.id,
                    front.captured_ns,
                    front.prompt,
                    layers,
                    who if isinstance(who, tuple) else None,
                )
            )

    def _next(self) -> frozenset[str] | None:
        """Wait for something to encode; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or (not self._busy and self._wanted and (self._fresh or self._is_lacking()))
                )
            )
            if self._closed:
                return None
            if self._fresh:
                self._front, self._ready = self._ready, self._front
                self._fresh, self._encoded = False, frozenset()
            self._busy = True
            self._encoded |= self._wanted
            return self._encoded

    def _is_lacking(self) -> bool:
        """Whether somebody wants a layer of the present frame that is not encoded."""
        return self._front.id >= 0 and bool(self._wanted - self._encoded)


def png(picture: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3) RGB without loss."""
    _, packed = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return bytes(packed)
