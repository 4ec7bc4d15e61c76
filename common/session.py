"""A session as a user has it: the loop, what it shows, the keys, and the files it leaves."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from .backend import Backend, FrameParams
from .checkpoint import Checkpoint
from .controls import Controls, Event, Look, View
from .errors import SdxsError
from .frames import Frame
from .loop import Loop, LoopSettings, Prompt
from .sheet import Sheet
from .sink import Window, check_writable, open_sink, write_whole
from .source import Source, open_source
from .stats import Summary
from .text_encoder import TextEncoder
from .viewer import Viewer

DEFAULT_HOLD = 48


@dataclass(frozen=True, slots=True)
class Plan:
    """What a user asked for. None leaves a choice to `open_session`, which makes it from the source.

    hold: frames until the next prompt's turn. realtime: keep a file's pace and drop what comes too
    fast. See `LoopSettings`, `FrameParams` and `Look` for the rest.
    """

    source: str
    size: int
    prompts: tuple[str, ...]
    outs: tuple[Path, ...] = ()
    frames: int | None = None
    hold: int | None = None
    headless: bool = False
    realtime: bool | None = None
    sequential: bool = False
    seed: int = 0
    feedback: float = 0.0
    ema: float = 0.0
    blend: float = 0.0
    skip_threshold: float = 0.0
    side_by_side: bool = False
    overlay: bool = True
    contact_sheet: Path | None = None
    stats: Path | None = None


class Session:
    """Connects keys to changes, frames to sinks. Built and run on the main thread."""

    def __init__(
        self, plan: Plan, source: Source, loop: Loop, viewer: Viewer, controls: Controls, window: Window | None,
        sheet: Sheet | None,
    ) -> None:
        self.plan = plan
        self.source = source
        self.loop = loop
        self._asked_for: list[Path] = []
        self._viewer = viewer
        self._controls = controls
        self._window = window
        self._sheet = sheet
        self._folder = Path.cwd()

    @property
    def total(self) -> int | None:
        """How many frames the session will have, if that is known."""
        return self.plan.frames

    @property
    def files(self) -> list[Path]:
        """What the session has written, as far as it exists."""
        plan = self.plan
        named = [*plan.outs, *(path for path in (plan.contact_sheet, plan.stats) if path), *self._asked_for]
        return [path for path in named if path.exists()] if self.loop.stats.shown else []

    def run(self, report: Callable[[int, str], None]) -> Summary:
        """Run to the end. `report` is told the number of frames shown and the prompt after each of them.

        Raises whatever ended the session early; what was written until then is kept.
        """

        def show(frame: Frame) -> None:
            self._viewer.show(frame)
            if self._sheet:
                self._sheet.add(frame)
            report(self.loop.stats.shown + 1, frame.prompt)

        summary = self.loop.run(show, self._idle, self._finish)
        if self.plan.stats:
            write_whole(self.plan.stats, (json.dumps(summary.as_json(), indent=1) + "\n").encode())
        return summary

    def _idle(self) -> None:
        while self._window and (key := self._window.key()) is not None:
            event = self._controls.press(key)
            if event:
                self._handle(event)

    def _handle(self, event: Event) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        if event is Event.QUIT:
            self.loop.stop()
        elif event is Event.PROMPT:
            self.loop.set_prompt(self._controls.prompt).add_done_callback(self._note_failure)
        elif event is Event.PARAMS:
            self.loop.set_params(self._controls.params)
            self._viewer.note = f"feedback {self._controls.params.feedback:.1f}"
        elif event is Event.PAUSE:
            self.loop.pause(not self.loop.paused)
            self._viewer.note = "paused" if self.loop.paused else ""
        elif event is Event.SNAPSHOT:
            path = self._folder / f"sdxs-{stamp}.png"
            self._viewer.save_snapshot(path)
            self._asked_for.append(path)
        elif event is Event.RECORD:
            recording = self._viewer.toggle_recording(self._folder / f"sdxs-{stamp}.mp4")
            if recording:
                self._asked_for.append(recording)

    def _note_failure(self, done: "Future[None]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._viewer.note = str(error) if isinstance(error, SdxsError) else repr(error)

    def _finish(self) -> None:
        try:
            self._viewer.close()
        finally:
            if self._sheet:
                self._sheet.close()


def open_session(plan: Plan, checkpoint: Checkpoint, backends: Sequence[Backend]) -> Session:
    """Open the source, every sink and the text encoder; nothing is written and no backend loaded yet.

    Raises SourceError, SinkError, UsageError, ConfigError.
    """
    one_pass = plan.frames is None and plan.headless and len(plan.prompts) == 1
    source = open_source(plan.source, plan.size, repeat=not one_pass)
    try:
        plan = _decide(plan, source, one_pass)
        sinks = [open_sink(path, source.fps, bool(plan.realtime)) for path in plan.outs]
        sheet = Sheet(plan.contact_sheet, plan.hold or plan.frames or DEFAULT_HOLD) if plan.contact_sheet else None
        if plan.stats:
            check_writable(plan.stats, plan.stats.absolute().parent)
        window = None if plan.headless else Window()
        encoder = TextEncoder(checkpoint)
        prompts = [Prompt(text, encoder.encode(text)) for text in (plan.prompts if plan.hold else plan.prompts[:1])]
    except SdxsError:
        source.close()
        raise
    params = FrameParams(plan.seed, plan.feedback)
    settings = LoopSettings(
        plan.size, plan.frames, plan.hold or 0, bool(plan.realtime), plan.sequential, plan.skip_threshold
    )
    loop = Loop(source, backends, settings, prompts, params, encoder.encode)
    view = View.SIDE_BY_SIDE if plan.side_by_side or len(backends) > 1 else View.OUTPUT
    look = Look(view, plan.ema, plan.blend, plan.overlay)
    viewer = Viewer(plan.size, look, loop.stats, sinks, window)
    return Session(plan, source, loop, viewer, Controls(plan.prompts, params, look), window, sheet)


def _decide(plan: Plan, source: Source, one_pass: bool) -> Plan:
    """Fill in what the user left open: without a window, files are rendered frame by frame and then end."""
    realtime, hold, frames = plan.realtime, plan.hold, plan.frames
    if realtime is None:
        realtime = not (plan.headless and source.paced)
    if hold is None and plan.headless and len(plan.prompts) > 1:
        hold = source.length if source.length and source.length > 1 else DEFAULT_HOLD
    if frames is None and one_pass:
        frames = source.length
    elif frames is None and plan.headless and hold and source.paced:
        frames = hold * len(plan.prompts)
    return replace(plan, realtime=realtime, hold=hold, frames=frames)
