"""Run what a process does again and again: threads, descriptors and memory stay flat.

Run as `python -m sdxs.experiments endurance --part cycles [--json PATH]`. A part is one of: models
opened and closed (`cycles`), the same without `close` (`dropped`), different prompts encoded
(`prompts`), and one session with a change a second (`live`). A tiny checkpoint with random weights
stands in for a model. Each part is added to the file, so that each can have a process of its own.
Exits with 1 if something grew.
"""

import gc
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np

from ...api import open_model
from ...common.backend.assembly import make_backend, options_for
from ...common.backend.memory import anonymous_bytes
from ...common.backend.spec import spec_of
from ...common.checkpoint.find import open_checkpoint
from ...common.errors import SdxsError
from ...common.live.opening import open_session
from ...common.live.options import SessionFiles, SessionOptions
from ...common.live.parameters import Change, LiveParameters, Set
from ...common.picture.size import FrameSize
from ...common.prompt.text_encoder import TextEncoder
from ...common.settings import setting
from ...common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from .. import record
from ..options import Options, result_file

SIZE = 64
SAMPLES = 60
# of the last quarter, less that of the second: heaps settle, and a session keeps its figures
ALLOWED_BYTES = 8_000_000
CLOSED_AT_ONCE = 2  # a thread or a descriptor may be on its way out while one looks
BACKENDS = ("mlx", "coreml", "hosted")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds after `done` cycles, prompts or seconds."""

    done: int
    threads: int
    descriptors: int
    anonymous_mb: float

    @classmethod
    def now(cls, done: int) -> "Sample":
        return cls(
            done,
            _count("/proc/self/task") or threading.active_count(),
            _count("/proc/self/fd") or _count("/dev/fd"),
            round(anonymous_bytes() / 1e6, 2),
        )


def _count(folder: str) -> int:
    path = Path(folder)
    return len(list(path.iterdir())) if path.is_dir() else 0


def verdict(samples: list[Sample]) -> dict[str, object]:
    """Compare the last quarter of the samples with the second, by medians."""
    quarter = max(1, len(samples) // 4)
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]

    def grown(name: str) -> float:
        return float(
            np.median([getattr(s, name) for s in after])
            - np.median([getattr(s, name) for s in before])
        )

    growth = {name: round(grown(name), 2) for name in ("threads", "descriptors", "anonymous_mb")}
    flat = (
        growth["threads"] <= CLOSED_AT_ONCE
        and growth["descriptors"] <= CLOSED_AT_ONCE
        and growth["anonymous_mb"] * 1e6 <= ALLOWED_BYTES
    )
    return {"growth": growth, "flat": flat}


@contextmanager
def _tiny_model() -> Iterator[Path]:
    """A checkpoint, and a cache of its own: the user's keeps the user's prompts."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield write_checkpoint(Path(folder) / "tiny", tiny(architecture("sdxs-512-0.9")))
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def _repeated(count: int, step: Callable[[int], None]) -> list[Sample]:
    samples = []
    for number in range(count):
        step(number)
        if number % max(1, count // SAMPLES) == 0 or number == count - 1:
            gc.collect()
            samples.append(Sample.now(number + 1))
            _say(samples[-1])
    return samples


def _say(sample: Sample) -> None:
    print(
        f"{sample.done}: {sample.threads} threads, {sample.descriptors} descriptors, "
        f"{sample.anonymous_mb:.1f} MB",
        flush=True,
    )


def cycles(model: Path, count: int, backend: str, close: bool) -> list[Sample]:
    """Open a model, render a picture, and close it, or drop it unclosed."""
    settings = {"runtime": "reference"} if backend == "coreml" else None
    frame = np.zeros((SIZE, SIZE, 3), np.uint8)

    def step(_number: int) -> None:
        opened = open_model(str(model), backend, SIZE, settings=settings)
        opened(frame, "a picture")
        if close:
            opened.close()

    return _repeated(count, step)


def hosted(model: Path, count: int, close: bool) -> list[Sample]:
    """The same with a backend in a child process."""
    spec, checkpoint = spec_of("mlx"), open_checkpoint(model)

    def step(_number: int) -> None:
        backend = make_backend(spec, checkpoint, options_for(spec, SIZE), isolate=True)
        backend.load()
        if close:
            backend.close()

    return _repeated(count, step)


def prompts(model: Path, count: int) -> list[Sample]:
    """Encode different prompts, some in blends."""
    encoder = TextEncoder(open_checkpoint(model))

    def step(number: int) -> None:
        text = f"picture number {number}"
        encoder.encode(f"({text}:1.5) and (ink:1)" if number % 5 == 0 else text)

    return _repeated(count, step)


def live(model: Path, seconds: float) -> list[Sample]:
    """Run one session in real time without a window; change something every second."""
    spec, checkpoint = spec_of("mlx"), open_checkpoint(model)
    backend = make_backend(spec, checkpoint, options_for(spec, SIZE, own={"lanes": 1}))
    options = SessionOptions(source="synthetic", headless=True, realtime=True)
    session = open_session(
        options, LiveParameters(), SessionFiles(), FrameSize(SIZE, SIZE), checkpoint, [backend]
    )
    samples: list[Sample] = []
    changes = cycle(range(6))
    began = time.monotonic()
    seen = [0, 0]  # whole seconds, samples

    def change(second: int) -> Change:
        return (
            Set("prompt", f"picture number {second}"),
            Set("seed", second),
            Set("feedback", 0.1 * (second % 5)),
            Set("ema", 0.1 * (second % 4)),
            Set("prompt", f"(ink:1.{second % 9}) and (picture number {second}:1)"),
            Set("transition", 0.5 * (second % 2)),
        )[next(changes)]

    def report(_shown: int, _prompt: str) -> None:
        passed = time.monotonic() - began
        if passed < seen[0] + 1:
            return
        seen[0] = int(passed)
        session.apply(change(seen[0]))
        if passed >= seen[1] * seconds / SAMPLES:
            seen[1] += 1
            samples.append(Sample.now(seen[0]))
            _say(samples[-1])
        if passed >= seconds:
            session.loop.stop()

    session.run(report)
    return samples


@dataclass(frozen=True, slots=True)
class EnduranceOptions(Options):
    """Which part, and how long."""

    part: Literal["cycles", "dropped", "prompts", "live"] = setting("cycles", "what is repeated")
    backend: Literal["mlx", "coreml", "hosted"] = setting(
        "mlx", "of `cycles` and `dropped`; coreml: on the reference interpreter"
    )
    count: int = setting(1000, "cycles, or prompts", minimum=1)
    seconds: float = setting(3600.0, "length of the session", minimum=1, unit="s")
    json: Path | None = result_file()


def measure(options: EnduranceOptions) -> list[Sample]:
    """Run one part."""
    with _tiny_model() as model:
        if options.part == "prompts":
            return prompts(model, options.count)
        if options.part == "live":
            return live(model, options.seconds)
        close = options.part == "cycles"
        if options.backend == "hosted":
            return hosted(model, options.count, close)
        return cycles(model, options.count, options.backend, close)


def run(options: EnduranceOptions) -> int:
    """Run one part and add it to the file; return 1 if something grew."""
    began = time.monotonic()
    samples = measure(options)
    found = verdict(samples)
    name = options.part
    if name in ("cycles", "dropped"):
        name += f" {options.backend}"
    print(f"{'good' if found['flat'] else 'BAD'}: {name}, growth {found['growth']}")
    if options.json:
        rows = [[s.done, s.threads, s.descriptors, s.anonymous_mb] for s in samples]
        part = {
            **record.facts(options),
            "took_s": round(time.monotonic() - began, 1),
            **found,
            "columns": ["done", "threads", "descriptors", "anonymous_mb"],
            "samples": rows,
        }
        record.write(options.json, {"parts": _earlier(options.json) | {name: part}}, options)
    return 0 if found["flat"] else 1


def _earlier(path: Path) -> dict[str, object]:
    """Return the parts that a file already has. Raises SdxsError."""
    if not path.exists():
        return {}
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise SdxsError(f"{path}: holds no earlier parts ({error}); name a new file") from None
    return dict(parts)
