"""The torch peer's memory in flight, on a device that works late: only when it is waited for.

On a CPU a copy is over when the call returns. On a GPU it is not, and memory that is filled again
too early makes a wrong picture, which no test on a CPU can see.
"""

import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity extra is not installed")
pytest.importorskip("diffusers", reason="the parity extra is not installed")

import torch

from sdxs.common.errors import BackendError
from sdxs.common.picture.size import FrameSize
from sdxs.experiments.peers.torch_backend import Slot, TorchBackend

SIDE = 8


@dataclass
class LateSlot(Slot):
    """A slot whose pictures become their negatives once somebody waits. queue: of all slots."""

    queue: "deque[LateSlot]" = field(default_factory=deque)

    def launch(self) -> None:
        self.launched = True
        self.queue.append(self)

    def wait(self) -> None:
        assert self.launched
        while any(waiting is self for waiting in self.queue):
            first = self.queue.popleft()
            first.host_out.copy_(255 - first.host_in)


class LateBackend(TorchBackend):
    """The peer without its networks: what it does with memory."""

    def __init__(self, depth: int, batch: int) -> None:
        self.depth, self.batch = depth, batch
        self._size = FrameSize(SIDE, SIDE)
        self._in_flight = deque()
        self._queue: deque[LateSlot] = deque()
        self._slots = [self._slot() for _ in range(-(-depth // batch) + (batch > 1))]

    def _slot(self) -> Slot:
        host_in, host_out, picture = (
            torch.zeros(self.batch, SIDE, SIDE, 3, dtype=torch.uint8) for _ in range(3)
        )
        return LateSlot(host_in, host_out, picture, queue=self._queue)

    def change(self) -> None:
        """Do what a change of prompt or seed begins with."""
        self._finish()

    @property
    def slots(self) -> list[Slot]:
        return self._slots


@torch.inference_mode()
def play(seed: int, changes: float) -> tuple[LateBackend, int]:
    """Submit, collect and change at random; check every picture. The backend; its first slots."""
    chance = random.Random(seed)
    batch = chance.choice([1, 2, 3, 4])
    backend = LateBackend(chance.randint(batch, 4 * batch + 2), batch)
    given, first = deque[int](), len(backend.slots)

    def collect() -> None:
        out = np.empty((SIDE, SIDE, 3), np.uint8)
        backend.collect(out)
        assert np.all(out == 255 - given.popleft()), (seed, backend.depth, batch)

    for number in range(120):
        if chance.random() < changes:
            backend.change()
        if chance.random() < 0.55 and len(given) < backend.depth:
            given.append(number)
            backend.submit(np.full((SIDE, SIDE, 3), number, np.uint8))
        elif given:
            collect()
    while given:
        collect()
    return backend, first


@pytest.mark.parametrize("changes", [0.0, 0.1])
def test_no_memory_is_filled_again_before_its_frames_are_collected(changes: float) -> None:
    for seed in range(60):
        backend, first = play(seed, changes)
        assert not any(slot.given or slot.left or slot.launched for slot in backend.slots)
        assert changes or len(backend.slots) == first  # one more only where changes break batches


@torch.inference_mode()
def test_closing_waits_for_what_the_device_still_computes() -> None:
    """Memory that is given back while a device writes into it may be somebody else's by then."""
    backend = LateBackend(5, 2)
    for number in range(5):
        backend.submit(np.full((SIDE, SIDE, 3), number, np.uint8))
    slots = backend.slots
    backend.close()
    assert not backend._queue and not backend.slots
    done = [
        slot.host_out[: slot.given].numpy()[:, 0, 0, 0].tolist() for slot in slots if slot.given
    ]
    # the last frame fills no batch: nothing was launched, and nothing is now
    assert done == [[255, 254], [253, 252], [0]]
    with pytest.raises(BackendError, match="without a submitted frame"):
        backend.collect(np.empty((SIDE, SIDE, 3), np.uint8))


def test_closing_lets_go_of_its_memory_where_the_device_failed() -> None:
    class Broken(LateSlot):
        def wait(self) -> None:
            raise RuntimeError("device-side assert")

    backend = LateBackend(1, 1)
    backend._slots = [Broken(*(torch.zeros(1, 1, 1, 3),) * 3, launched=True)]
    with pytest.raises(RuntimeError, match="device-side assert"):
        backend.close()
    assert not backend.slots
    backend.close()
