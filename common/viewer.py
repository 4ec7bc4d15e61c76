"""What the main thread does with a rendered frame: smooth it, compose it, write it everywhere."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .controls import HELP, Look, View
from .errors import SinkError
from .frames import Frame
from .image import label, text_block
from .sink import Sink, VideoFileSink, save_image
from .stats import Stats
from .temporal import Smoother

RECORDING_FPS = 30.0


class Viewer:
    """Composes frames and feeds the sinks; `window`, if any, is one of them and also shows the overlay."""

    def __init__(self, size: int, look: Look, stats: Stats, sinks: Sequence[Sink], window: Sink | None) -> None:
        self.look = look
        self._smoothers = [Smoother(size) for _ in range(stats.backend_count)]
        self._stats = stats
        self._sinks = list(sinks)
        self._window = window
        self._recording: VideoFileSink | None = None
        self._last: np.ndarray | None = None
        self._prompt = ""
        self.note = ""

    def show(self, frame: Frame) -> None:
        """Smooth and blend in place, account for flicker, write to every sink. Raises SinkError."""
        if frame.prompt != self._prompt:
            self._prompt = frame.prompt
            self._stats.flicker.restart()
        for smoother, output in zip(self._smoothers, frame.outputs, strict=True):
            smoother.apply(output, frame.camera, self.look.ema, self.look.blend)
        self._stats.flicker.add(frame.camera, frame.outputs[0])
        picture = compose(frame, self.look.view)
        self._last = picture
        now = time.perf_counter_ns()
        plain = self._labelled(picture, frame.prompt) if self.look.view is View.SIDE_BY_SIDE else picture
        for sink in [*self._sinks, *([self._recording] if self._recording else [])]:
            sink.write(plain, now)
        if self._window:
            self._window.write(self._overlaid(picture, frame), now)

    def save_snapshot(self, path: Path) -> None:
        """Write what is shown now, without the overlay."""
        if self._last is not None:
            save_image(path, self._last)
            self.note = f"saved {path.name}"

    def toggle_recording(self, path: Path) -> Path | None:
        """Start recording into `path`, or stop; return the path when a recording has begun."""
        if self._recording:
            self._recording.close()
            self._recording, self.note = None, "recording saved"
            return None
        self._recording = VideoFileSink(path, RECORDING_FPS, realtime=True)
        self.note = f"recording {path.name}"
        return path

    def close(self) -> None:
        """Finish every file, whatever one of them says, then raise the first complaint."""
        failure: SinkError | None = None
        for sink in [*self._sinks, *([self._recording] if self._recording else []), *([self._window] if self._window else [])]:
            try:
                sink.close()
            except SinkError as error:
                failure = failure or error
        self._recording = None
        if failure:
            raise failure

    def _labelled(self, picture: np.ndarray, prompt: str) -> np.ndarray:
        picture = picture.copy()
        label(picture[:, picture.shape[0] :], prompt)
        return picture

    def _overlaid(self, picture: np.ndarray, frame: Frame) -> np.ndarray:
        look = self.look
        if not (look.overlay or look.help or look.typed is not None):
            return picture
        picture = picture.copy()
        if look.overlay:
            recording = "REC  " if self._recording else ""
            figures = f"{recording}{self._stats.fps:.1f} fps  {self._stats.recent_latency_ms:.0f} ms  {self.note}"
            text_block(picture, [figures, frame.prompt], top=True)
        if look.help:
            text_block(picture, HELP, top=True)
        if look.typed is not None:
            text_block(picture, [f"prompt: {look.typed}_"], top=False)
        return picture


def compose(frame: Frame, view: View) -> np.ndarray:
    """Lay camera and outputs out as the view asks: uint8 (S, n S, 3) RGB; may alias the frame's buffers."""
    if view is View.SIDE_BY_SIDE:
        return np.hstack([frame.camera, *frame.outputs])
    if view is View.SPLIT:
        half = frame.camera.shape[1] // 2
        halves = [output.copy() for output in frame.outputs]
        for picture in halves:
            picture[:, :half] = frame.camera[:, :half]
            picture[:, half : half + 1] = 255
        return halves[0] if len(halves) == 1 else np.hstack(halves)
    return frame.outputs[0] if len(frame.outputs) == 1 else np.hstack(frame.outputs)
