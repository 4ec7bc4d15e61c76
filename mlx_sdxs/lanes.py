"""Frames in flight: worker threads that each compute whole frames over one shared set of weights.

MLX submits work from the thread that evaluates, and a CPU stream is one thread, so one frame alone
leaves the device waiting: on CUDA for the host to queue the next operation, on a CPU for
everything outside the BLAS. A lane is a thread with its own streams and its own compiled function;
frames are dealt out in turn and come back in order. On a GPU, whose multiprocessors one frame's
small maps leave idle, a lane can also compute several waiting frames at once.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import mlx.core as mx
import numpy as np

from ..common.backend import copies
from .fast import host_memory as residency

Arrays: TypeAlias = mx.array | list[tuple[mx.array, mx.array]]
# picture uint8 ([B,] S, S, 3), prompt, noise, previous x0, its share[, edges, their strength] ->
# picture, x0: `frame.Frame`.
Render = Callable[..., tuple[mx.array, mx.array]]
JOIN_S = 5.0
NO_PICTURE = np.empty(0, np.uint8)


@dataclass(slots=True)
class Job:
    """One frame on its way. Its inputs are evaluated, so any thread may read them.

    previous: the frame whose x0 is mixed in by `feedback`; a lane waits for it only if it has a
    share. edges: what the ControlNet reads, uint8 (S, S); None for a frame without.
    """

    picture: np.ndarray
    prompt: Arrays
    noise: mx.array
    feedback: float
    previous: "Job | None"
    submitted_ns: int
    edges: np.ndarray | None = None
    control_scale: float = 0.0
    text_only: bool = False
    rendered: np.ndarray | None = None
    x0: mx.array | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def needed(self) -> "Job | None":
        """The frame before, if its x0 has a share in this one's."""
        return self.previous if self.feedback and not self.text_only else None

    def let_go(self) -> None:
        """Drop the pictures of a frame that is done; its x0 stays for the next one."""
        self.picture, self.edges, self.rendered = NO_PICTURE, None, None

    def alike(self, other: "Job") -> bool:
        """Whether both can be computed at once: all but their pictures and edges is the same, and
        neither needs the other.
        """
        return (
            self.needed is other.needed is None
            and self.prompt is other.prompt
            and self.noise is other.noise
            and (self.edges is None) == (other.edges is None)
            and (self.control_scale, self.text_only) == (other.control_scale, other.text_only)
        )


class Lane(Protocol):
    """Renders jobs, and hands them back in the order in which they came."""

    def submit(self, *jobs: Job) -> None:
        """Take jobs on."""

    def wait(self, job: Job) -> None:
        """Wait for a frame; then it holds its picture or its error."""

    def close(self) -> None:
        """Let go of everything."""


def _start(render: Render, jobs: Sequence[Job], keep: bool) -> mx.array:
    """Launch one frame or a compatible batch; return the lazy picture or pictures."""
    arguments = _arguments(jobs)
    _seen(arguments[0], keep)
    picture, x0 = render(*arguments)
    for job, part in zip(jobs, mx.split(x0, len(jobs)) if len(jobs) > 1 else [x0], strict=True):
        job.x0 = part
    mx.async_eval(picture, *(job.x0 for job in jobs))
    return picture


class LaneThread:
    """A thread that renders jobs with functions of its own, in their order; up to `batch` of those
    that wait at once.
    """

    def __init__(
        self, number: int, make: Callable[[], list[Render]], batch: int = 1, keep: bool = False
    ) -> None:
        """make: called in the thread; builds (and on a GPU compiles) one function, and a second
        for frames with edges.

        keep: whether pictures stay in the host's memory, see `residency`.
        """
        self._batch, self._keep = batch, keep
        self._jobs: queue.SimpleQueue[tuple[Job, ...] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._work, args=(make,), name=f"sdxs-mlx-{number}", daemon=True
        )
        self._thread.start()

    def submit(self, *jobs: Job) -> None:
        """Take jobs on; of several in one call as many are computed at once as `_at_once` says."""
        self._jobs.put(jobs)

    def wait(self, job: Job) -> None:
        """Wait for a frame."""
        job.done.wait()

    def close(self) -> None:
        """End the thread after what it was given."""
        self._jobs.put(None)
        self._thread.join(JOIN_S)

    def _work(self, make: Callable[[], list[Render]]) -> None:
        renders, waiting, open_ = make(), deque[Job](), True
        while waiting or open_:
            while open_ and (not waiting or not self._jobs.empty()):
                came = self._jobs.get()
                open_ = came is not None
                waiting.extend(came or ())
                del came
            if waiting:
                jobs = [waiting.popleft() for _ in range(_at_once(waiting, self._batch))]
                try:
                    _render(renders[jobs[0].edges is not None], jobs, self._keep)
                except Exception as error:  # handed to whoever collects the frames
                    for job in jobs:
                        job.error = error
                finally:
                    for job in jobs:
                        job.previous = None  # or every frame would keep all before it
                        job.done.set()
                    del job
                del jobs
        del renders
        # A thread that used MLX and ends without this aborted the interpreter at exit in most runs.
        mx.clear_streams()


class CallersLane:
    """The lane without a thread: the calling one itself submits, and goes on while the device
    computes.

    A frame on an H200 took 8.6 ms this way and 11.6 with a thread in between (two runs, not side
    by side).
    """

    def __init__(self, make: Callable[[], list[Render]], keep: bool = False) -> None:
        """make, keep: as for `LaneThread`."""
        self._renders, self._keep = make(), keep
        self._pictures: deque[mx.array] = deque()

    def submit(self, *jobs: Job) -> None:
        """Launch frames one after the other."""
        for job in jobs:
            try:
                render = self._renders[job.edges is not None]
                self._pictures.append(_start(render, [job], self._keep))
            except Exception as error:  # handed to whoever collects the frame
                job.error = error
            finally:
                job.previous = None

    def wait(self, job: Job) -> None:
        """Wait for a frame; they are waited for in the order in which they came."""
        if job.error is None:
            picture = self._pictures.popleft()
            try:
                mx.eval(picture, job.x0)  # releases the GIL while it waits
                job.rendered = _seen(picture, self._keep)
            except Exception as error:
                job.error = error
        job.done.set()

    def close(self) -> None:
        """Let go of everything; MLX in this thread is ended by its owner."""
        self._pictures.clear()
        self._renders = []


def _at_once(waiting: Sequence[Job], most: int) -> int:
    """How many of the first jobs that wait go into one batch: as many as are alike, but a power of
    two.

    Every size of batch is compiled, and has its convolutions planned, on its own; so there are few.
    """
    alike = next(
        (n for n in range(1, len(waiting)) if not waiting[n].alike(waiting[0])), len(waiting)
    )
    return 1 << (min(alike, most).bit_length() - 1)


def _seen(picture: mx.array, keep: bool) -> np.ndarray:
    """The memory of an evaluated picture, as NumPy sees it."""
    view = np.asarray(picture)
    if keep:
        residency.keep_on_host(view)
    return view


def _render(render: Render, jobs: Sequence[Job], keep: bool) -> None:
    if (before := jobs[0].needed) is not None:
        before.done.wait()
    picture = _start(render, jobs, keep)
    mx.eval(picture, *(job.x0 for job in jobs))  # releases the GIL while it waits
    rendered = _seen(picture, keep)
    for job, part in zip(jobs, [rendered] if len(jobs) == 1 else rendered, strict=True):
        job.rendered = part


def _arguments(jobs: Sequence[Job]) -> tuple[Arrays, ...]:
    job = jobs[0]
    before = job.needed
    if job.text_only or before is None or before.x0 is None:
        previous, feedback = (
            mx.zeros_like(job.noise),
            float(job.text_only),
        )  # all of the latents are then these zeros
    else:
        previous, feedback = before.x0, job.feedback
    control: tuple[mx.array, ...] = ()
    edges = [j.edges for j in jobs if j.edges is not None]
    if edges:
        control = _joined(edges), mx.array(job.control_scale, dtype=mx.float32)
    given = sum(j.picture.nbytes + (0 if j.edges is None else j.edges.nbytes) for j in jobs)
    copies.count("backend in", given if len(jobs) == 1 else 2 * given)
    share = mx.array(feedback, dtype=mx.float32)
    return _joined([j.picture for j in jobs]), job.prompt, job.noise, previous, share, *control


def _joined(arrays: Sequence[np.ndarray]) -> mx.array:
    """One array as it is, several as one with an axis more; copied once, and once more if there
    are several.
    """
    return mx.array(arrays[0] if len(arrays) == 1 else np.stack(arrays))
