"""Lanes: threads that each compute whole frames with one shared set of weights.

MLX submits work from the thread that evaluates, and a CPU stream is one thread. With one frame in
flight the device waits: on CUDA for the host to queue operations, on a CPU for all work outside the
BLAS. A lane has its own streams and its own compiled function. Frames go to the lanes in turn and
return in order. A lane can also batch waiting frames, because the small maps of one frame leave
multiprocessors of a GPU idle.
"""

import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import mlx.core as mx
import numpy as np

from ..common.backend import copies
from ..common.errors import BackendError
from . import streams
from .adapt.lora import Fused
from .fast import host_memory as residency

Arrays: TypeAlias = mx.array | list[tuple[mx.array, mx.array]]
# `frame.Frame`: picture uint8 ([B,] H, W, 3), encoder_hidden_states, noise, previous x0, feedback
# [, edges, control scale] -> picture, x0, mean
Render = Callable[..., tuple[mx.array, mx.array, mx.array]]
LOOK_S = 0.25  # interval between checks that the lane of a job still lives
NO_PICTURE = np.empty(0, np.uint8)


@dataclass(slots=True)
class Job:
    """One frame in flight. Its inputs are evaluated, so any thread may read them.

    previous: the frame before, whose x0 `feedback` mixes in; a lane waits for it only if needed.
    edges: input of the ControlNet, uint8 (H, W); None without control. finite: whether every value
    of x0 and of the picture was. fused: the frame under the LoRAs of this job; None without LoRAs.
    behind: other weights of them were asked for, and are not ready.
    """

    picture: np.ndarray
    encoder_hidden_states: Arrays
    noise: mx.array
    feedback: float
    previous: "Job | None"
    submitted_ns: int
    edges: np.ndarray | None = None
    control_scale: float = 0.0
    text_only: bool = False
    rendered: np.ndarray | None = None
    x0: mx.array | None = None
    finite: bool = True
    error: BaseException | None = None
    fused: Fused | None = None
    behind: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def needed(self) -> "Job | None":
        """Return the frame before if this one mixes in its x0, else None."""
        return self.previous if self.feedback and not self.text_only else None

    def fail(self, error: BaseException) -> None:
        """End the job with an error, unless it has ended."""
        if not self.done.is_set():
            self.error, self.previous = error, None
            self.done.set()

    def let_go(self) -> None:
        """Drop the pictures of a finished frame; its x0 stays for the next frame."""
        self.fused = None
        self.picture, self.edges, self.rendered = NO_PICTURE, None, None

    def alike(self, other: "Job") -> bool:
        """Tell whether both jobs fit one batch.

        Only their pictures and edges may differ, and neither may need an x0.
        """
        return (
            self.needed is other.needed is None
            and self.encoder_hidden_states is other.encoder_hidden_states
            and self.noise is other.noise
            and self.fused is other.fused
            and (self.edges is None) == (other.edges is None)
            and (self.control_scale, self.text_only) == (other.control_scale, other.text_only)
        )


Jobs: TypeAlias = "queue.SimpleQueue[tuple[Job, ...] | None]"


class Lane(Protocol):
    """A lane: renders jobs, and finishes them in the order of submission."""

    def submit(self, *jobs: Job) -> None:
        """Queue jobs."""

    def wait(self, job: Job) -> None:
        """Wait until a job holds its picture or its error."""

    def close(self) -> None:
        """Release everything."""


def _start(render: Render, jobs: Sequence[Job], keep: bool) -> tuple[mx.array, mx.array]:
    """Launch one frame or a compatible batch; return the lazy picture or pictures, and means."""
    arguments = _arguments(jobs)
    _seen(arguments[1 if jobs[0].fused else 0], keep)
    picture, x0, means = render(*arguments)
    for job, part in zip(jobs, mx.split(x0, len(jobs)) if len(jobs) > 1 else [x0], strict=True):
        job.x0 = part
    mx.async_eval(picture, means, *(job.x0 for job in jobs))
    return picture, means


class LaneThread:
    """A lane with a thread: renders jobs in order, up to `batch` waiting jobs at once.

    The thread does not refer to the lane, and ends with it, closed or not.
    """

    def __init__(
        self, number: int, make: Callable[[], list[Render]], batch: int = 1, keep: bool = False
    ) -> None:
        """Start the thread.

        make: called in the thread; returns one render function, and with a ControlNet a second one
        for frames with edges. keep: keep pictures in host memory, see `fast.host_memory`.
        """
        self._jobs: Jobs = queue.SimpleQueue()
        self._died_of: list[BaseException] = []
        self._thread = threading.Thread(
            target=_work,
            args=(self._jobs, self._died_of, [make], batch, keep),
            name=f"sdxs-mlx-{number}",
            daemon=True,
        )
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None).atexit = False
        streams.end_at_exit(self._thread, self._jobs)

    def submit(self, *jobs: Job) -> None:
        """Queue jobs; the jobs of one call are batched by `_at_once`."""
        self._jobs.put(jobs)

    def wait(self, job: Job) -> None:
        """Wait until a job holds its picture or its error; a dead lane gives it an error."""
        while not job.done.wait(LOOK_S):
            if not self._thread.is_alive() and not job.done.is_set():
                job.fail(next(iter(self._died_of), BackendError("its thread has ended")))

    def close(self) -> None:
        """End the thread after its queued jobs."""
        self._jobs.put(None)
        self._thread.join(streams.JOIN_S)


def _work(
    jobs: Jobs,
    died_of: list[BaseException],
    makes: list[Callable[[], list[Render]]],
    batch: int,
    keep: bool,
) -> None:
    """Render jobs until None comes. makes: one item, taken out, or the thread would keep it."""
    waiting = deque[Job]()
    try:
        streams.borrow()
        _serve(jobs, waiting, makes.pop()(), batch, keep)
    except BaseException as error:  # `collect` raises it; nothing else could
        died_of.append(error)
        for job in waiting:
            job.fail(error)
    finally:
        mx.clear_cache()  # of a model that was dropped this was the last reference
        streams.give_back()


def _serve(jobs: Jobs, waiting: deque[Job], renders: list[Render], batch: int, keep: bool) -> None:
    open_ = True
    while waiting or open_:
        while open_ and (not waiting or not jobs.empty()):
            came = jobs.get()
            open_ = came is not None
            waiting.extend(came or ())
            del came
        if waiting:
            now = [waiting.popleft() for _ in range(_at_once(waiting, batch))]
            try:
                _render(renders[now[0].edges is not None], now, keep)
            except Exception as error:  # `collect` raises it
                for job in now:
                    job.error = error
            finally:
                for job in now:
                    job.previous = None  # or every frame would keep all earlier ones
                    job.done.set()
                del job
            del now


class CallersLane:
    """The lane without a thread: the caller submits and continues while the device computes.

    A frame on an H200 took 8.6 ms this way and 11.6 ms with a thread (two runs, not side by side).
    """

    def __init__(self, make: Callable[[], list[Render]], keep: bool = False) -> None:
        """Build the render functions. make, keep: as for `LaneThread`."""
        self._renders, self._keep = make(), keep
        self._launched: deque[tuple[mx.array, mx.array]] = deque()

    def submit(self, *jobs: Job) -> None:
        """Launch the frames one by one."""
        for job in jobs:
            try:
                render = self._renders[job.edges is not None]
                self._launched.append(_start(render, [job], self._keep))
            except Exception as error:  # `collect` raises it
                job.error = error
            finally:
                job.previous = None

    def wait(self, job: Job) -> None:
        """Wait for a job; call it in the order of submission."""
        if job.error is None:
            picture, means = self._launched.popleft()
            try:
                mx.eval(picture, means, job.x0)  # releases the GIL while it waits
                job.finite = bool(np.isfinite(means.item()))
                job.rendered = _seen(picture, self._keep)
            except Exception as error:
                job.error = error
        job.done.set()

    def close(self) -> None:
        """Release everything; the owner of the thread clears MLX's streams."""
        self._launched.clear()
        self._renders = []


def _at_once(waiting: Sequence[Job], most: int) -> int:
    """Return how many of the first waiting jobs form a batch: a power of two of compatible jobs.

    Every batch size is compiled and planned separately, so only powers of two occur.
    """
    alike = next(
        (n for n in range(1, len(waiting)) if not waiting[n].alike(waiting[0])), len(waiting)
    )
    return 1 << (min(alike, most).bit_length() - 1)


def _seen(picture: mx.array, keep: bool) -> np.ndarray:
    """Return a zero-copy NumPy view of an evaluated picture."""
    view = np.asarray(picture)
    if keep:
        residency.keep_on_host(view)
    return view


def _render(render: Render, jobs: Sequence[Job], keep: bool) -> None:
    if (before := jobs[0].needed) is not None:
        before.done.wait()
    picture, means = _start(render, jobs, keep)
    mx.eval(picture, means, *(job.x0 for job in jobs))  # releases the GIL while it waits
    rendered = _seen(picture, keep)
    parts = [rendered] if len(jobs) == 1 else rendered
    for job, part, finite in zip(jobs, parts, np.isfinite(np.array(means)), strict=True):
        job.rendered, job.finite = part, bool(finite)


def _arguments(jobs: Sequence[Job]) -> tuple[Arrays | Fused, ...]:
    job = jobs[0]
    before = job.needed
    if job.text_only or before is None or before.x0 is None:
        # text only: a feedback of 1 replaces the latents by these zeros
        previous, feedback = mx.zeros_like(job.noise), float(job.text_only)
    else:
        previous, feedback = before.x0, job.feedback
    control: tuple[mx.array, ...] = ()
    edges = [j.edges for j in jobs if j.edges is not None]
    if edges:
        control = _joined(edges), mx.array(job.control_scale, dtype=mx.float32)
    given = sum(j.picture.nbytes + (0 if j.edges is None else j.edges.nbytes) for j in jobs)
    copies.count("backend in", given if len(jobs) == 1 else 2 * given)
    share = mx.array(feedback, dtype=mx.float32)
    return (
        *((job.fused,) if job.fused else ()),
        _joined([j.picture for j in jobs]),
        job.encoder_hidden_states,
        job.noise,
        previous,
        share,
        *control,
    )


def _joined(arrays: Sequence[np.ndarray]) -> mx.array:
    """Copy one array, or a stack of several, to MLX. One is copied once, several twice."""
    return mx.array(arrays[0] if len(arrays) == 1 else np.stack(arrays))
