"""The requests to a worker: what its process does, and what it answers.

Each is a dataclass with a `do` method, run in the child. The way there and back is in no figure.
"""

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Generic, TypeVar

import numpy as np

from ...backend.description import Description
from ...backend.memory import footprint_bytes
from ...backend.options import BackendOptions
from ...backend.process.hosted import HostedBackend
from ...backend.protocol import Backend, FrameParams, MemoryUse
from ...checkpoint.find import Checkpoint
from ...errors import UsageError
from ...picture.size import FrameSize
from .instrument import Instrument, Peaks, StageCost

T = TypeVar("T")
Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A backend that takes part in a run.

    label: unique in its run. location, instrument: 'module:Class' (no instrument: ''). backend: the
    name of its `BackendSpec`, if it has one.

    isolated: hosted once more in a process of its own, so that its figures hold what hosting costs.
    reference: renders what its pictures are judged by; None: they are not judged. environment:
    variables that its process sets before its backend is imported.
    """

    label: str
    location: str
    options: BackendOptions
    instrument: str = ""
    isolated: bool = False
    backend: str = ""
    reference: "Entrant | None" = None
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Timed:
    """Times of a turn, in milliseconds.

    warm_ms: the first frames, kept apart. frame_ms: a frame's share of the stream's time. It spans
    from one collect to the next, over as many collects as frames are in flight, because frames may
    come in bunches. latency_ms: from submit to collect; about the same at depth 1. bridge_ms: mean
    of a frame, as the backend reports it. frames: number rendered after the warm-up.
    """

    warm_ms: list[float]
    frame_ms: list[float]
    latency_ms: list[float]
    bridge_ms: float
    frames: int


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes: what the process costs its machine, and what the framework counts."""

    footprint_bytes: int
    memory: MemoryUse


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a backend says of itself, and what loading took and cost. depth: frames in flight."""

    describe: Description
    depth: int
    load_s: float
    use: Use


@dataclass(slots=True)
class Bench:
    """The child's state: the backend and what it is fed."""

    entrant: Entrant
    checkpoint: Checkpoint
    encoder_hidden_states: np.ndarray
    seed: int
    backend: Backend | None = None
    pictures: list[np.ndarray] = field(default_factory=list)

    def loaded(self) -> Backend:
        assert self.backend is not None, "load comes first"
        return self.backend

    def use(self) -> Use:
        backend = self.loaded()
        processes = {os.getpid(), *backend.describe().process_ids}
        return Use(sum(footprint_bytes(pid) for pid in processes), backend.memory())

    def paint(self) -> None:
        """Make the pictures that timed frames are rendered from."""
        self.pictures = _pictures(self.entrant.options.size)

    def instrument(self) -> Instrument:
        if not self.entrant.instrument:
            raise UsageError(
                f"{self.entrant.label} brings no instrument; only its whole frames can be timed"
            )
        made: Callable[[], Instrument] = _named(self.entrant.instrument)
        return made()


class Request(Generic[Answer]):
    """Something the child is asked to do."""

    def do(self, bench: Bench) -> Answer:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Load(Request[Loaded]):
    def do(self, bench: Bench) -> Loaded:
        """Build, load and condition the backend.

        All imports happen here, the backend's module first.
        """
        entrant = bench.entrant
        os.environ.update(entrant.environment)
        made = _named(entrant.location)
        began = time.perf_counter()
        if entrant.isolated:
            bench.backend = HostedBackend(
                entrant.label, entrant.location, bench.checkpoint, entrant.options
            )
        else:
            bench.backend = made(bench.checkpoint, entrant.options)
        bench.backend.load()
        bench.backend.set_conditioning(bench.encoder_hidden_states)
        bench.backend.set_params(FrameParams(bench.seed))
        loaded_s = time.perf_counter() - began
        bench.paint()
        return Loaded(bench.backend.describe(), bench.backend.depth, loaded_s, bench.use())


@dataclass(frozen=True, slots=True)
class Run(Request[Timed]):
    """Render `warm` frames, then for `seconds` (at least `least`); keep `most` times."""

    seconds: float
    warm: int = 2
    most: int = 500
    least: int = 2

    def do(self, bench: Bench) -> Timed:
        backend, pictures = bench.loaded(), bench.pictures
        out = np.empty_like(pictures[0])
        submitted: deque[int] = deque()
        number, bridge_ns = 0, 0

        def submit() -> None:
            nonlocal number
            submitted.append(time.perf_counter_ns())
            backend.submit(pictures[number % len(pictures)])
            number += 1

        def collect() -> tuple[float, int]:
            nonlocal bridge_ns
            bridge_ns += backend.collect(out).bridge_ns
            now = time.perf_counter_ns()
            return round((now - submitted.popleft()) / 1e6, 5), now

        depth = backend.depth
        warm_ms: list[float] = []
        frame_ms: list[float] = []
        latency_ms: list[float] = []
        for _ in range(depth - 1):
            submit()
        ends = deque([time.perf_counter_ns()], maxlen=depth)  # of the last `depth` collects
        for _ in range(self.warm):
            submit()
            now = collect()[1]
            warm_ms.append(round((now - ends[-1]) / 1e6, 5))
            ends.append(now)
        began, bridge_ns, rendered = ends[-1], 0, 0
        while len(frame_ms) < self.least or (ends[-1] - began) / 1e9 < self.seconds:
            submit()
            latency, now = collect()
            rendered += 1
            if len(ends) == depth and len(frame_ms) < self.most:
                frame_ms.append(round((now - ends[0]) / 1e6 / depth, 5))
                latency_ms.append(latency)
            ends.append(now)
        bridge_ms = bridge_ns / rendered / 1e6
        while submitted:
            collect()
        return Timed(warm_ms, frame_ms, latency_ms, bridge_ms, rendered)


@dataclass(frozen=True, slots=True)
class Measure(Request[Use]):
    def do(self, bench: Bench) -> Use:
        return bench.use()


@dataclass(frozen=True, slots=True)
class Watch(Request[list[tuple[int, int]]]):
    """Render for `seconds` and sample the footprint: (frames so far, bytes)."""

    seconds: float
    samples: int = 30

    def do(self, bench: Bench) -> list[tuple[int, int]]:
        seen, frames, began = [(0, bench.use().footprint_bytes)], 0, time.perf_counter()
        while time.perf_counter() - began < self.seconds:
            frames += Run(self.seconds / self.samples, warm=0, least=1).do(bench).frames
            seen.append((frames, bench.use().footprint_bytes))
        return seen


@dataclass(frozen=True, slots=True)
class CountCopies(Request[dict[str, float]]):
    """Run `frames` camera pictures through the loop to a video; count bytes by copy site."""

    frames: int

    def do(self, bench: Bench) -> dict[str, float]:
        from .passes import count_copies

        return count_copies(
            bench.loaded(),
            bench.entrant.options.size,
            bench.encoder_hidden_states,
            bench.seed,
            self.frames,
        )


@dataclass(frozen=True, slots=True)
class Profile(Request[dict[str, list[float]]]):
    """Time the stages, waiting for each, in ms.

    pre, post and hosting are the same for every backend.
    """

    frames: int

    def do(self, bench: Bench) -> dict[str, list[float]]:
        from .passes import profile_surroundings

        size = bench.entrant.options.size
        stages = profile_surroundings(size, self.frames)
        if bench.entrant.instrument and not bench.entrant.isolated:
            inside = bench.instrument().profile(bench.loaded(), bench.pictures[0], self.frames)
            stages = {"pre": stages.pop("pre"), **inside, **stages}
        bridge_ms = Run(0).do(bench).bridge_ms
        return {**stages, "bridge": [bridge_ms]} if bridge_ms else stages


@dataclass(frozen=True, slots=True)
class Notes(Request[list[str]]):
    """What the framework tells of how it runs the frame, a line each."""

    def do(self, bench: Bench) -> list[str]:
        return (
            bench.instrument().notes(bench.loaded())
            if bench.entrant.instrument and not bench.entrant.isolated
            else []
        )


@dataclass(frozen=True, slots=True)
class MeasurePeaks(Request[Peaks]):
    dtype: str

    def do(self, bench: Bench) -> Peaks:
        return bench.instrument().peaks(self.dtype)


@dataclass(frozen=True, slots=True)
class CountWork(Request[list[StageCost]]):
    """Needs no loaded backend."""

    def do(self, bench: Bench) -> list[StageCost]:
        return list(bench.instrument().count(bench.checkpoint, bench.entrant.options.size))


@dataclass(frozen=True, slots=True)
class Close(Request[None]):
    def do(self, bench: Bench) -> None:
        if bench.backend is not None:
            bench.backend.close()


def backend_of(entrant: Entrant) -> Callable[..., Backend]:
    """Import the module of an entrant's backend and return its class."""
    made: Callable[..., Backend] = _named(entrant.location)
    return made


def _named(location: str) -> Callable[..., T]:
    module, attribute = location.split(":")
    found: Callable[..., T] = getattr(import_module(module), attribute)
    return found


def _pictures(size: FrameSize) -> list[np.ndarray]:
    """Eight frames of the moving test card, uint8 (H, W, 3) RGB."""
    from ...io.sources.synthetic import Synthetic
    from ...picture.image import to_frame_rgb

    card, pictures = Synthetic(size), []
    for _ in range(8):
        pictures.append(np.empty((*size.shape, 3), np.uint8))
        to_frame_rgb(card.read(), pictures[-1])
    return pictures
