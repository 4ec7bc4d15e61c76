"""Frames in flight: worker threads that each compute whole frames over one shared set of weights.

MLX submits work from the thread that evaluates, and a CPU stream is one thread, so one frame alone leaves
the device waiting: on CUDA for the host to queue the next operation, on a CPU for everything outside
the BLAS. A lane is a thread with its own streams and its own compiled function; frames are dealt
out in turn and come back in order.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ..common import copies

Arrays = mx.array | list[tuple[mx.array, mx.array]]
# picture uint8 (S, S, 3), prompt, noise, previous x0, its share[, edges, their strength] -> picture, x0; see `frame.Frame`.
Render = Callable[..., tuple[mx.array, mx.array]]
JOIN_S = 5.0


@dataclass(slots=True)
class Job:
    """One frame on its way. Its inputs are evaluated, so any thread may read them.

    previous: the frame whose x0 is mixed in by `feedback`; a lane waits for it only if it has a share. edges:
    what the ControlNet reads, uint8 (S, S); None for a frame without.
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

    def start(self, render: Render) -> mx.array:
        """Set the frame going; return its picture, to be evaluated."""
        picture, self.x0 = render(*_arguments(self))
        mx.async_eval(picture, self.x0)
        return picture


class Lane:
    """A thread that renders one job after the other with functions of its own."""

    def __init__(self, number: int, make: Callable[[], list[Render]]) -> None:
        """make: called in the thread; builds (and on a GPU compiles) one function, and a second for frames with edges."""
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(make,), name=f"sdxs-mlx-{number}", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def wait(self, job: Job) -> None:
        """Wait for a frame."""
        job.done.wait()

    def close(self) -> None:
        """End the thread after what it was given."""
        self._jobs.put(None)
        self._thread.join(JOIN_S)

    def _work(self, make: Callable[[], list[Render]]) -> None:
        renders = make()
        while (job := self._jobs.get()) is not None:
            try:
                _render(renders[job.edges is not None], job)
            except Exception as error:  # handed to whoever collects the frame
                job.error = error
            finally:
                job.previous = None  # or every frame would keep all before it
                job.done.set()
            del job
        del renders
        # A thread that used MLX and ends without this aborted the interpreter at exit in most runs.
        mx.clear_streams()


class CallersLane:
    """The lane of a single frame in flight: the calling thread itself, which has nothing else to wait for.

    A frame on an H200 took 8.6 ms this way and 11.6 with a thread in between (two runs, not side by side).
    """

    def __init__(self, make: Callable[[], list[Render]]) -> None:
        """make: as for `Lane`."""
        self._renders = make()
        self._pictures: deque[mx.array] = deque()

    def submit(self, job: Job) -> None:
        try:
            self._pictures.append(job.start(self._renders[job.edges is not None]))
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
                job.rendered = np.asarray(picture)
            except Exception as error:
                job.error = error
        job.done.set()

    def close(self) -> None:
        """Let go of everything; MLX in this thread is ended by its owner."""
        self._pictures.clear()
        self._renders = []


def _render(render: Render, job: Job) -> None:
    if job.previous is not None and job.feedback and not job.text_only:
        job.previous.done.wait()
    picture = job.start(render)
    mx.eval(picture, job.x0)  # releases the GIL while it waits
    job.rendered = np.asarray(picture)


def _arguments(job: Job) -> tuple[object, ...]:
    before = job.previous if job.feedback and not job.text_only else None
    if job.text_only or before is None or before.x0 is None:
        previous, feedback = mx.zeros_like(job.noise), float(job.text_only)  # all of the latents are then these zeros
    else:
        previous, feedback = before.x0, job.feedback
    control: tuple[mx.array, ...] = ()
    if job.edges is not None:
        control = mx.array(job.edges), mx.array(job.control_scale, dtype=mx.float32)
    copies.count("backend in", job.picture.nbytes + (0 if job.edges is None else job.edges.nbytes))
    share = mx.array(feedback, dtype=mx.float32)
    return mx.array(job.picture), job.prompt, job.noise, previous, share, *control
