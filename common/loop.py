"""The session: read a frame, render it under the current prompt, hand it to every sink."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .backend import Backend
from .image import label, to_square_rgb
from .sink import Sink
from .source import Source


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and what the text encoder made of it, float32 (1, 77, D)."""

    text: str
    encoder_hidden_states: np.ndarray


@dataclass(slots=True)
class Session:
    """What happened: frame count, time of each frame in its backend, and of the whole session."""

    frames: int = 0
    seconds: float = 0.0
    backend_ms: list[float] = field(default_factory=list)
    stopped: bool = False


# Called after every frame with: index, prompt, the square camera picture, the output; both uint8 (S, S, 3) RGB
# and only valid during the call.
Observer = Callable[[int, Prompt, np.ndarray, np.ndarray], None]


def run_sequential(
    source: Source,
    backend: Backend,
    sinks: Sequence[Sink],
    prompts: Sequence[Prompt],
    *,
    size: int,
    hold: int,
    frames: int | None,
    side_by_side: bool,
    stop: Callable[[], bool],
    observe: Observer,
) -> Session:
    """Run until the source ends, `frames` are done or `stop` says so; the backend is loaded, and stays so.

    Each prompt is held for `hold` frames, then the next follows, round and round. Every frame
    of the source is rendered, in order, however long it takes.
    """
    session = Session()
    camera = np.empty((size, size, 3), np.uint8)
    output = np.empty_like(camera)
    began = time.perf_counter()
    current = -1
    while frames is None or session.frames < frames:
        picture = None if stop() else source.read()
        if picture is None:
            session.stopped = stop()
            break
        to_square_rgb(picture, camera)
        wanted = session.frames // hold % len(prompts)
        if wanted != current:
            current = wanted
            backend.set_conditioning(prompts[current].encoder_hidden_states)
        backend.submit(camera)
        session.backend_ms.append(backend.collect(output).total_ns / 1e6)
        shown = compose(camera, output, prompts[current].text, side_by_side)
        for sink in sinks:
            sink.write(shown)
        observe(session.frames, prompts[current], camera, output)
        session.frames += 1
    session.seconds = time.perf_counter() - began
    return session


def compose(camera: np.ndarray, output: np.ndarray, prompt: str, side_by_side: bool) -> np.ndarray:
    """What a viewer sees: the output alone, or the camera beside it with the prompt written in."""
    if not side_by_side:
        return output
    shown = np.hstack([camera, output])
    label(shown[:, camera.shape[1] :], prompt)
    return shown
