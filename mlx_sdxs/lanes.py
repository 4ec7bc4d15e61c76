"""Frames in flight: worker threads that each compute whole frames over one shared set of weights.

MLX submits work from the thread that evaluates, and a CPU stream is one thread, so one frame alone leaves
the device waiting: on CUDA for the host to queue the next operation, on a CPU for everything outside
the BLAS. A lane is a thread with its own streams and its own compiled function; frames are dealt
out in turn and come back in order.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ..common import copies

Arrays = mx.array | list[tuple[mx.array, mx.array]]
# picture uint8 (S, S, 3), prompt, noise, previous x0, its share -> picture, x0; see `frame.Frame`.
Render = Callable[[mx.array, Arrays, mx.array, mx.array, mx.array], tuple[mx.array, mx.array]]
JOIN_S = 5.0


@dataclass(slots=True)
class Job:
    """One frame on its way. All arrays are evaluated, so any thread may read them.

    previous: the frame whose x0 is mixed in by `feedback`; waited for only if it has a share.
    """

    picture: np.ndarray
    prompt: Arrays
    noise: mx.array
    feedback: float
    previous: "Job | None"
    submitted_ns: int
    rendered: np.ndarray | None = None
    x0: mx.array | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Lane:
    """A thread that renders one job after the other with a function of its own."""

    def __init__(self, number: int, make: Callable[[], Render]) -> None:
        """make: called in the thread; builds (and on a GPU compiles) the function."""
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(make,), name=f"sdxs-mlx-{number}", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """End the thread after what it was given."""
        self._jobs.put(None)
        self._thread.join(JOIN_S)

    def _work(self, make: Callable[[], Render]) -> None:
        render = make()
        while (job := self._jobs.get()) is not None:
            try:
                _render(render, job)
            except Exception as error:  # handed to whoever collects the frame
                job.error = error
            finally:
                job.previous = None  # or every frame would keep all before it
                job.done.set()
            del job
        del render
        # A thread that used MLX and ends without this aborted the interpreter at exit in most runs.
        mx.clear_streams()


def _render(render: Render, job: Job) -> None:
    before = job.previous if job.feedback else None
    if before is not None:
        before.done.wait()
    if before is None or before.x0 is None:
        previous, feedback = mx.zeros_like(job.noise), 0.0
    else:
        previous, feedback = before.x0, job.feedback
    copies.count("backend in", job.picture.nbytes)
    picture, x0 = render(mx.array(job.picture), job.prompt, job.noise, previous, mx.array(feedback, dtype=mx.float32))
    mx.eval(picture, x0)  # releases the GIL while it waits
    job.rendered, job.x0 = np.asarray(picture), x0
