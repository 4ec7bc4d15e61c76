"""A starting process: it notes when each part of its start has ended.

Imports no more than a start needs, for what is imported here is in its first phase.
"""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from statistics import median

import numpy as np

from ...backend.phases import WEIGHTS, take
from ...backend.process.child import forward_warnings, settle_in
from ...backend.process.messages import Failure
from ...backend.protocol import FrameParams
from ...checkpoint.find import Checkpoint
from ...prompt.cache import EmbeddingCache
from ...prompt.text_encoder import TextEncoder
from .requests import Bench, Close, Run, backend_of

PROCESS, IMPORT, PROMPT, FIRST = "process", "import", "prompt", "first frame"
COMPILE = "compile and warm-up"
TOGETHER = f"{WEIGHTS}, {COMPILE}"


@dataclass(frozen=True, slots=True)
class Begun:
    """Ends of the phases after the process began, in ns, and the time of a frame later on."""

    ends: tuple[tuple[str, int], ...]
    steady_ms: float


@dataclass(frozen=True, slots=True)
class Order:
    """What a starting process is given at once; nothing in it imports a backend.

    The entrant follows over the pipe: to receive it is to import its package, which is timed.
    prompts: folder of encoded prompts; None for the user's.
    """

    checkpoint: Checkpoint
    prompt: str
    prompts: Path | None
    seed: int
    steady_s: float
    environment: Mapping[str, str]


def serve(pipe: connection.Connection, order: Order) -> None:
    """The child: start, and say when each phase ended."""
    ends = [(PROCESS, time.perf_counter_ns())]
    settle_in()
    bench = None
    with suppress(EOFError, OSError), pipe:  # the parent is gone; nobody is left to answer
        forward_warnings(pipe.send)
        try:
            os.environ.update(order.environment)
            bench = Bench(pipe.recv(), order.checkpoint, np.zeros(0, np.float32), order.seed)
            _begin(bench, order, ends)
            steady_ms = median(Run(order.steady_s).do(bench).frame_ms)
            answer: object = Begun(tuple(ends), steady_ms)
        except BaseException as error:  # whatever it is, the parent must hear of it
            answer = Failure.of(error)
        pipe.send(answer)
        pipe.recv()
        if bench:
            with suppress(Exception):  # its start has been measured
                Close().do(bench)


def _begin(bench: Bench, order: Order, ends: list[tuple[str, int]]) -> None:
    """Import, load, encode the prompt, and render one frame; note the end of each."""
    made = backend_of(bench.entrant)
    ends.append((IMPORT, time.perf_counter_ns()))
    take()
    backend = bench.backend = made(bench.checkpoint, bench.entrant.options)
    backend.load()
    loaded_ns = time.perf_counter_ns()
    told = take()
    ends += [*told, (COMPILE if told else TOGETHER, loaded_ns)]
    prompts = EmbeddingCache(order.checkpoint, order.prompts)
    backend.set_conditioning(TextEncoder(order.checkpoint, prompts).encode(order.prompt))
    backend.set_params(FrameParams(bench.seed))
    ends.append((PROMPT, time.perf_counter_ns()))
    picture = np.zeros((*bench.entrant.options.size.shape, 3), np.uint8)
    backend.submit(picture)
    backend.collect(picture)
    ends.append((FIRST, time.perf_counter_ns()))
    bench.paint()
