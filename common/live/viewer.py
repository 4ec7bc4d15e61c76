"""What the main thread does with a rendered frame: smooth it, compose it, write it everywhere.

Figures, prompt, notes and help are drawn into the window's own enlarged copy of the picture, never
into a file; the window can be redrawn while no frame arrives.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..backend import copies
from ..errors import SdxsWarning, SinkError, first_of
from ..io.films.formats import suffix_for
from ..io.inputs.keys import HELP
from ..io.outputs.output import Outputs
from ..io.sinks.film import VideoFileSink
from ..io.sinks.image import save_image
from ..io.sinks.protocol import Sink, StampedSink, WritingSink
from ..picture.draw import label, text_block, text_table
from ..picture.image import enlarge, enlarged
from ..picture.size import Fit, FrameSize, Size
from ..picture.temporal import Smoother
from .look import Look, View, compose
from .parameters import LiveParameters
from .record import Moment, SessionRecord
from .stats import Stats
from .threads.frames import LiveFrame

RECORDING_FPS = 30.0
NOTE_S = 4.0
LEAST_HEIGHT, WIDEST = 720, 1440  # of the window's picture, in pixels


@dataclass(frozen=True, slots=True)
class Said:
    """What a window would write over the picture."""

    prompt: str
    coming: str
    note: str
    recording: bool


class Viewer:
    """Composes frames and feeds the sinks; a window also shows the overlay.

    Main thread only, but for `say` and `announce`.

    A file keeps the view that it began with: a video cannot change its size.
    """

    def __init__(
        self,
        size: Size,
        look: Look,
        stats: Stats,
        sinks: Sequence[Sink],
        window: Sink | None,
        values: LiveParameters | None = None,
        by_source: bool = False,
        record: SessionRecord | None = None,
        codec: str = "",
        show_size: FrameSize | None = None,
        fit: Fit = "pad",
        keeps: bool = False,
        outputs: Outputs | None = None,
    ) -> None:
        """size: of the frames. values: by default those of the table.

        by_source: sinks take a source's own time. show_size: enlarge pictures to this size. fit:
        how, where its proportions are others. record: of the PNGs, which otherwise carry none.
        codec: of recordings, see `VideoFileSink`. keeps: the last picture is kept for a snapshot
        without a window too. outputs: show it live, in the view of the sinks.
        """
        self.look = look
        self._values = values or LiveParameters()
        self._smoothers = [Smoother(size) for _ in range(stats.backend_count)]
        self._stats = stats
        self._sinks = list(sinks)
        self.outputs = outputs or Outputs()
        self._stamped = [sink for sink in sinks if isinstance(sink, StampedSink)]
        self._record = record
        self._by_source = by_source
        self._sinks_view = look.view
        self._window = window
        self._keeps = keeps or window is not None
        self._recording: VideoFileSink | None = None
        self._codec = codec
        self._recording_view = look.view
        self._recording_path = Path()
        shown = show_size or FrameSize.of(size)
        self._enlarges = shown != FrameSize.of(size)
        self._fit: Fit = fit
        blank = np.zeros((*shown.shape, 3), np.uint8)
        # What the window shows, and what is enlarged.
        self._kept = LiveFrame(blank, [blank.copy() for _ in range(stats.backend_count)])
        self._kept.edges = np.zeros(shown.shape, np.uint8)
        self._kept_moment: Moment | None = None
        self._prompt = ""
        self._coming = ""
        self._note = ("", 0)
        self._paused_ns, self._pause_began_ns = 0, self._running_ns()
        self._drawn: tuple[object, ...] = ()

    def show(self, frame: LiveFrame) -> None:
        """Smooth and blend in place, account for flicker, write to every sink. Raises SinkError."""
        if frame.prompt != self._prompt:
            self._prompt, self._coming = frame.prompt, ""
            self._stats.flicker.restart()
        if frame.turning:
            # what changes is the prompt, not the picture's steadiness
            self._stats.flicker.restart()
        for smoother, output in zip(self._smoothers, frame.outputs, strict=True):
            smoother.apply(output, frame.camera, self._values.ema, self._values.blend)
        self._stats.flicker.add(frame.camera, frame.outputs[0])
        now = self._running_ns()
        shown = self._enlarged(frame) if self._enlarges else frame
        self._write_files(shown, frame, now - self._paused_ns)
        if self._keeps:
            self._keep(frame)
        if self._window:
            self._draw()

    def refresh(self) -> None:
        """Redraw the last picture if its overlay has changed. Nothing happens without a window."""
        if self._window and self._writing() != self._drawn:
            self._draw()

    def say(self, note: str, seconds: float = NOTE_S) -> None:
        """Show a note for a while. Any thread."""
        self._note = note, time.perf_counter_ns() + round(seconds * 1e9)

    def announce(self, prompt: str) -> None:
        """Show which prompt comes next, until it has come; '' takes it back. Any thread."""
        self._coming = prompt if prompt != self._prompt else ""

    def use(self, values: LiveParameters) -> None:
        """Take live parameters: smoothing, blend, and pause, whose time recordings leave out."""
        now = self._running_ns()
        if values.pause and not self._values.pause:
            self._pause_began_ns = now
        elif self._values.pause and not values.pause:
            self._paused_ns += now - self._pause_began_ns
        self._values = values

    def hear(self) -> None:
        """Warn of what has become of outputs since the last call."""
        for note in self.outputs.heard():
            self.say(note)
            warnings.warn(note, SdxsWarning, stacklevel=2)

    @property
    def said(self) -> Said:
        """What the window says now, for others that show the session."""
        return Said(self._prompt, self._coming, self._shown_note(), self._recording is not None)

    def _running_ns(self) -> int:
        """The time now on a clock that stands while the process is stopped."""
        return time.perf_counter_ns() - self._stats.stopped_ns

    @property
    def written(self) -> list[Path]:
        """The files of the sinks, once they are closed."""
        return [
            path for sink in self._sinks if isinstance(sink, WritingSink) for path in sink.written
        ]

    def save_snapshot(self, path: Path) -> bool:
        """Write what is shown now, without the overlay. A failure becomes a note, and False."""
        if self._kept.id < 0:
            self.say("there is no picture yet to save")
            return False
        stamp = None
        if self._record and self._kept_moment:
            stamp = self._record.stamp(replace(self._kept_moment, view=self.look.view.title))
        try:
            save_image(path, compose(self._kept, self.look.view), stamp)
        except SinkError as error:
            self.say(f"no snapshot: {error}")
            return False
        self.say(f"saved {path.name}")
        return True

    @property
    def recording_suffix(self) -> str:
        """Suffix of a recording: of the first container that takes its codec."""
        return suffix_for(self._codec)

    def toggle_recording(self, path: Path) -> bool:
        """Start recording into `path` and return True, or stop and return False.

        A failure becomes a note, and False.
        """
        if self._recording:
            self.say(self._finish_recording())
            return False
        try:
            self._recording = VideoFileSink(path, RECORDING_FPS, realtime=True, codec=self._codec)
        except SinkError as error:
            self.say(f"no recording: {error}")
            return False
        self._recording_view, self._recording_path = self.look.view, path
        self.say(f"recording {path.name}, r stops")
        return True

    def close(self) -> None:
        """Finish every file, then raise the first complaint, the others as its notes."""
        complaints: list[BaseException] = []
        for sink in [
            *self._sinks,
            *([self._recording] if self._recording else []),
            *([self._window] if self._window else []),
        ]:
            try:
                sink.close()
            except SinkError as error:
                complaints.append(error)
            except (
                Exception
            ) as error:  # OpenCV's, too; the other files must be finished whatever this one says
                complaints.append(SinkError(f"a file could not be finished ({error}); free space"))
        self._recording = None
        self.outputs.close()
        self.hear()
        if complaints:
            raise first_of(complaints)

    def _write_files(self, frame: LiveFrame, rendered: LiveFrame, shown_ns: int) -> None:
        """Write a frame, or its enlarged copy; its record is that of the one rendered."""
        if self._sinks or self.outputs:
            picture = compose(frame, self._sinks_view)
            if self._sinks_view is View.SIDE_BY_SIDE:
                label(picture[:, frame.camera.shape[1] :], frame.prompt)
            if self._record:
                moment = Moment.of(rendered, self._values, self._sinks_view.title)
                for each in self._stamped:
                    each.stamp_next(self._record.stamp(moment))
            own_ns = frame.source_ns if self._by_source else None
            for sink in self._sinks:
                sink.write(picture, shown_ns if own_ns is None else own_ns)
            self.hear()
            self.outputs.write(picture)
        if self._recording:
            try:
                self._recording.write(compose(frame, self._recording_view), shown_ns)
            except SinkError as error:
                self._finish_recording()
                self.say(f"recording stopped: {error}", 3 * NOTE_S)

    def _finish_recording(self) -> str:
        """Close the recording and return what to say about it."""
        recording, self._recording = self._recording, None
        assert recording is not None
        try:
            recording.close()
        except (SinkError, OSError) as error:
            return f"the recording could not be finished: {error}"
        return (
            f"saved {self._recording_path.name}"
            if self._recording_path.exists()
            else "nothing was recorded"
        )

    def _enlarged(self, frame: LiveFrame) -> LiveFrame:
        """Return a larger copy of the frame; without a window, only of what files show."""
        larger, views = self._kept, {self._sinks_view, self._recording_view}
        larger.prompt, larger.source_ns = frame.prompt, frame.source_ns
        for picture, output in zip(larger.outputs, frame.outputs, strict=True):
            enlarge(output, picture, self._fit)
        if self._keeps or views & {View.SIDE_BY_SIDE, View.SPLIT}:
            enlarge(frame.camera, larger.camera, self._fit)
        if frame.edges is None:
            larger.edges = None
        elif larger.edges is not None and (self._keeps or View.EDGES in views):
            enlarge(frame.edges, larger.edges, self._fit)
        return larger

    def _keep(self, frame: LiveFrame) -> None:
        """Copy what is on display: the loop reuses the frame's buffers."""
        kept = self._kept
        kept.id, kept.prompt = frame.id, frame.prompt
        self._kept_moment = Moment.of(frame, self._values, self.look.view.title)
        if self._enlarges:
            return
        np.copyto(kept.camera, frame.camera)
        copies.count("kept for the window", (1 + len(kept.outputs)) * kept.camera.nbytes)
        for mine, output in zip(kept.outputs, frame.outputs, strict=True):
            np.copyto(mine, output)
        if frame.edges is not None and kept.edges is not None:
            np.copyto(kept.edges, frame.edges)

    def _draw(self) -> None:
        assert self._window is not None
        self._drawn = self._writing()
        picture = compose(self._kept, self.look.view)
        canvas = enlarged(picture, LEAST_HEIGHT, WIDEST)
        canvas = picture.copy() if canvas is picture else canvas
        self._write_over(canvas)
        self._window.write(canvas, time.perf_counter_ns())

    def _writing(self) -> tuple[object, ...]:
        """Everything the window shows that can change without a new frame."""
        look = self.look
        return (
            look.view,
            look.overlay,
            look.help,
            look.typed,
            self._values.pause,
            self._coming,
            self._shown_note(),
            self._recording,
        )

    def _shown_note(self) -> str:
        note, until_ns = self._note
        return note if time.perf_counter_ns() < until_ns else ""

    def _write_over(self, canvas: np.ndarray) -> None:
        look, prompt = self.look, self._kept.prompt
        loading = self._kept.id < 0
        if look.overlay and not loading:
            recording = "REC \u00b7 " if self._recording else ""
            figures = (
                f"{recording}{self._stats.fps:.1f} fps \u00b7 "
                f"{self._stats.recent_latency_ms:.0f} ms"
            )
            stands_in = [said.stand_in for said in self._stats.backends if said.stand_in]
            text_block(
                canvas,
                [figures, *stands_in, prompt, *([f"next: {self._coming}"] if self._coming else [])],
                top=True,
            )
        foot = [self._shown_note()]
        if loading:
            foot.append("loading the model\u2026 h shows the keys")
        if self._values.pause:
            foot.append("paused \u00b7 space goes on")
        if look.typed is not None:
            foot.append(f"new prompt: {look.typed}_")
        if any(foot):
            text_block(canvas, [line for line in foot if line], top=False)
        if look.help:
            text_table(canvas, HELP)
