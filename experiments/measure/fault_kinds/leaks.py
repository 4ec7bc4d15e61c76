"""Faults of many: models opened again and again, dropped, prompts by the hundred."""

import gc
import os
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from ....api import open_model
from ....common.backend.memory import footprint_bytes
from .checkpoints import FRAME
from .command import How
from .fault import FINE, Case, Right, kind
from .place import Place, threads
from .samples import SIZE

CYCLES = 25
MOST_GROWTH_BYTES = 8 << 20


@kind("models opened and closed")
def cycles(draw: Random) -> Iterator[Case]:
    """Threads, descriptors and memory stay flat over models; a dropped one is freed."""
    for settings in ({}, {"lanes": 1}, {"lanes": 3}):
        what = f"{CYCLES} models opened and closed, {settings or 'as they come'}"
        yield what, partial(_cycles, settings=settings)
    yield f"{CYCLES} models that fail to open", _failing
    yield "a model that is dropped and not closed", _dropped
    yield "200 prompts", _prompts


def _descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _once(place: Place, settings: dict[str, object]) -> None:
    with open_model(str(place.samples.tiny), "mlx", SIZE, settings=settings) as model:
        model(FRAME, "x")


def _flat(place: Place, act: object) -> None:
    assert callable(act)
    for _ in range(3):
        act()
    gc.collect()
    before = threads(), _descriptors(), footprint_bytes(os.getpid())
    for _ in range(CYCLES):
        act()
    gc.collect()
    after = threads(), _descriptors(), footprint_bytes(os.getpid())
    place.demand(after[0] <= before[0], f"threads: {before[0]}, then {after[0]}")
    place.demand(after[1] <= before[1], f"descriptors: {before[1]}, then {after[1]}")
    grown = after[2] - before[2]
    place.demand(grown < MOST_GROWTH_BYTES, f"memory grew by {grown / 1e6:.1f} MB")


def _cycles(place: Place, settings: dict[str, object]) -> None:
    right = Right((FINE,), seconds=120)
    place.call(lambda: _flat(place, lambda: _once(place, settings)), right)


def _failing(place: Place) -> None:
    def fail() -> None:
        try:
            open_model(str(place.samples.tiny), "mlx", 65)
        except Exception as error:  # which one is another fault's
            assert "65" in str(error)

    place.call(lambda: _flat(place, fail), Right((FINE,), seconds=120))


def _dropped(place: Place) -> None:
    def drop() -> None:
        before = threads()
        model = open_model(str(place.samples.tiny), "mlx", SIZE)
        model(FRAME, "x")
        seen = weakref.ref(model)
        del model
        gc.collect()
        place.demand(seen() is None, "a dropped model stays")
        place.demand(threads() <= before + 2, f"threads: {before}, then {threads()}")

    place.call(drop, Right((FINE,)))


# In a process of its own: what earlier faults left to the allocator is no part of it.
_PROMPTS = """
import os, sys
import numpy as np
from sdxs.api import open_model
from sdxs.common.backend.memory import footprint_bytes
frame, most = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), int(sys.argv[2])
with open_model(sys.argv[1], "mlx", 64) as model:
    for number in range(20):
        model(frame, f"warm {number}")
    before = footprint_bytes(os.getpid())
    for number in range(200):
        model(frame, f"prompt {number}")
    kept = 200 * 77 * model.checkpoint.text_encoder.hidden_size * 4  # on purpose, up to 64 MB
    grown = footprint_bytes(os.getpid()) - before - kept
if grown >= most:
    sys.exit(f"error: memory grew by {grown / 1e6:.1f} MB")
"""


def _prompts(place: Place) -> None:
    how = How(program=("-c", _PROMPTS))
    given = (str(place.samples.tiny), str(MOST_GROWTH_BYTES))
    place.sdxs(*given, right=Right((FINE,), seconds=120), how=how)
