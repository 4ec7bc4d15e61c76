"""The capture thread: read, stamp, crop, convert, draw edges, and put into the first slot."""

import threading
import time

from ...errors import SourceLost
from ...io.sources.protocol import Source, TimedSource
from ...patience import Patience
from ...picture.edges import Edges
from ...picture.image import to_frame_rgb
from ..options import LoopOptions
from ..plan import Planned
from ..stats import Stats
from .frames import LiveFrame
from .pipeline import Pipeline


class Capture:
    """Reads one source.

    `run` or `run_in_turn` is its thread; the main thread calls the rest.
    """

    def __init__(
        self, source: Source, pipeline: Pipeline, options: LoopOptions, stats: Stats
    ) -> None:
        self.stalled = False
        self._source = source
        self._timed = source if isinstance(source, TimedSource) else None
        self._pipeline = pipeline
        self._options = options
        self._stats = stats
        self._edges = Edges(options.edges, options.size) if options.edges else None
        self._mirror = self._mirrored = options.mirror
        self._reading_since_ns = 0  # 0 between two reads
        self._watched_ns, self._patience = 0, Patience()  # of the main thread, for one read
        self._turns = threading.Semaphore(0)

    # The main thread.

    def ask(self) -> None:
        """Let `run_in_turn` read one more frame."""
        self._turns.release()

    def set_edges(self, kind: str) -> None:
        """Draw another kind of edges from the next frame on; ignored where none are drawn."""
        if self._edges:
            self._edges = Edges(kind, self._options.size)

    def set_mirror(self, mirror: bool) -> None:
        """Mirror the camera, or not, from the next frame on."""
        self._mirror = mirror

    def excuse(self) -> None:
        """Forget that a read is under way: the session has failed for another reason."""
        self._reading_since_ns = 0

    def check_stall(self) -> None:
        """Raise SourceLost if a read does not return."""
        since_ns = self._reading_since_ns
        if since_ns != self._watched_ns:
            self._watched_ns, self._patience = since_ns, Patience()
        silent_s = self._patience.waited_s()
        if since_ns and silent_s > self._options.stall_s:
            self.stalled = True
            raise SourceLost(
                f"{self._source.name} has delivered no frame for {silent_s:.0f} s; check its cable "
                "and that no other program took it; what was recorded until then is kept"
            )

    # The capture thread.

    def run(self) -> None:
        """Read frame after frame, at the source's own pace or as fast as they are taken."""
        options, source, pipeline = self._options, self._source, self._pipeline
        interval_ns = round(1e9 / source.fps) if options.realtime and source.paced else 0
        if options.realtime:
            pipeline.ready.wait()  # a clip must not play away while the model loads
        due_ns = time.perf_counter_ns()
        began_ns = due_ns - self._stats.stopped_ns
        limit = None if options.realtime else options.frames
        while not pipeline.ending.is_set() and (limit is None or self._stats.captured < limit):
            if interval_ns and self._timed is None:
                pipeline.ending.wait(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
                due_ns = max(due_ns, time.perf_counter_ns() - interval_ns) + interval_ns
            frame = self._read_frame()
            if frame is None:
                break
            if interval_ns and frame.source_ns is not None:
                # its own time, however regular
                due_ns = began_ns + frame.source_ns + self._stats.stopped_ns
                pipeline.ending.wait(max(0.0, (due_ns - time.perf_counter_ns()) / 1e9))
                frame.captured_ns = time.perf_counter_ns()
            pipeline.put(pipeline.captured, frame)
        pipeline.captured.close()

    def run_in_turn(self) -> None:
        """Read a frame whenever the main thread asks for one."""
        pipeline = self._pipeline
        while self._turns.acquire() and not pipeline.ending.is_set():
            frame = self._read_frame()
            if frame is None:
                break
            pipeline.put(pipeline.captured, frame)
        pipeline.captured.close()

    def _read_frame(self) -> LiveFrame | None:
        """Read, stamp, crop and convert the next frame into a pool buffer; None at the end."""
        self._reading_since_ns = time.perf_counter_ns()
        picture = self._source.read()
        captured_ns, self._reading_since_ns = time.perf_counter_ns(), 0
        frame = self._pipeline.pool.take() if picture is not None else None
        if picture is None or frame is None:
            return None
        timed = self._timed
        frame.source_ns = None if timed is None else round(timed.stamp_s * 1e9)
        frame.planned = self._plan_of(frame.source_ns)
        mirror, drawing = self._mirror, self._edges  # the main thread may replace them
        to_frame_rgb(picture, frame.camera, mirror, self._options.fit)
        frame.id, frame.captured_ns, frame.similar, frame.turning = (
            self._stats.captured,
            captured_ns,
            False,
            False,
        )
        if drawing and frame.edges is not None:
            if mirror != self._mirrored:
                drawing.forget()
            drawing.draw(frame.camera, frame.edges)
            frame.edge_kind = drawing.kind
        self._mirrored = frame.mirrored = mirror
        frame.stage_ns = {"capture": time.perf_counter_ns() - captured_ns}
        self._stats.captured += 1
        return frame

    def _plan_of(self, source_ns: int | None) -> Planned | None:
        """Return what a schedule changes with the frame that was read; obey it here, too."""
        if self._options.plan is None:
            return None
        number = self._stats.captured
        seconds = number / self._source.fps if source_ns is None else source_ns / 1e9
        planned = self._options.plan.at(seconds)
        if planned and "mirror" in planned.names:
            self.set_mirror(planned.values.mirror)
        if planned and "edges" in planned.names:
            self.set_edges(planned.values.edges)
        return planned
