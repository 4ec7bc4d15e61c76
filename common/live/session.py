"""A session as a user has it: the loop, what it shows, the keys, and the files it leaves."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np

from ..backend.protocol import Backend, FrameParams
from ..checkpoint.find import Checkpoint
from ..errors import SdxsError, SinkError, UsageError
from ..files import check_writable, write_whole
from ..io.sheet import Sheet
from ..io.sinks.registry import open_sink
from ..io.sinks.window import Window
from ..io.sources.protocol import Source
from ..io.sources.registry import open_source
from ..prompt.syntax import GALLERY, parse_prompt
from ..prompt.text_encoder import TextEncoder
from .controls import Controls, Event, Look, View
from .display import DISPLAY_WAIT_S
from .frames import LiveFrame
from .loop import Loop, LoopOptions, Prompt
from .stats import Summary
from .viewer import Viewer

DEFAULT_HOLD = 48
AHEAD_JOIN_S = 0.2
TYPING_WAIT_S = 0.005  # Qt keeps only the last key between two polls


@dataclass(frozen=True, slots=True)
class Plan:
    """What a user asked for. None leaves a choice to `open_session`, which makes it from the
    source.

    hold: frames until the next prompt's turn. transition_s: seconds from one prompt to the next.
    realtime: keep a file's pace and drop what comes too fast. See `LoopOptions`, `FrameParams`
    and `Look` for the rest.
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
    transition_s: float = 0.0
    edges: str = "soft"
    control_scale: float = 0.0


class Session:
    """Connects keys to changes, frames to sinks. Built and run on the main thread."""

    def __init__(
        self,
        plan: Plan,
        source: Source,
        loop: Loop,
        viewer: Viewer,
        controls: Controls,
        window: Window | None,
        sheet: Sheet | None,
        encode: Callable[[str], np.ndarray],
    ) -> None:
        """encode: keeps what it has encoded, so that a prompt's second turn costs nothing."""
        self.plan = plan
        self.source = source
        self.loop = loop
        self._asked_for: list[Path] = []
        self._viewer = viewer
        self._controls = controls
        self._window = window
        self._sheet = sheet
        self._folder = Path.cwd()
        self._encode = encode
        self._over = threading.Event()
        self._ahead = threading.Thread(
            target=self._encode_ahead, name="sdxs-encode-ahead", daemon=True
        )

    @property
    def total(self) -> int | None:
        """How many frames the session will have, if that is known."""
        one_pass = self.plan.frames is None and self.plan.headless
        return self.source.length if one_pass else self.plan.frames

    @property
    def files(self) -> list[Path]:
        """What the session has written, as far as it exists."""
        plan = self.plan
        named = [
            *plan.outs,
            *(path for path in (plan.contact_sheet, plan.stats) if path),
            *self._asked_for,
        ]
        return [path for path in named if path.exists()] if self.loop.stats.shown else []

    def run(self, report: Callable[[int, str], None]) -> Summary:
        """Run to the end. `report` is told the number of frames shown and the prompt after each of
        them.

        Raises whatever ended the session early; what was written until then is kept.
        """

        def show(frame: LiveFrame) -> None:
            self._viewer.show(frame)
            if self._sheet:
                self._sheet.add(frame)
            if self._window and self._ahead.ident is None:
                self._ahead.start()
            report(self.loop.stats.shown + 1, frame.prompt)

        try:
            summary = self.loop.run(show, self._idle, self._finish)
        except BaseException as error:
            try:
                self._write_stats()
            except SinkError as second:
                error.add_note(f"and then: {second}")
            raise
        self._write_stats()
        return summary

    def _write_stats(self) -> None:
        if self.plan.stats and self.loop.summary:
            write_whole(
                self.plan.stats, (json.dumps(self.loop.summary.as_json(), indent=1) + "\n").encode()
            )

    def _idle(self) -> None:
        if self._window is None:
            return
        while (key := self._window.key()) is not None:
            event = self._controls.press(key)
            if event:
                self._handle(event, self._window)
        self.loop.display.wait_s = (
            DISPLAY_WAIT_S if self._controls.look.typed is None else TYPING_WAIT_S
        )
        if self._window.closed:
            self.loop.stop()
        self._viewer.refresh()

    def _handle(self, event: Event, window: Window) -> None:
        controls, viewer, look = self._controls, self._viewer, self._controls.look
        if event is Event.QUIT:
            self.loop.stop()
        elif event is Event.PROMPT:
            viewer.announce(controls.prompt)
            self.loop.set_prompt(controls.prompt).add_done_callback(self._note_failure)
        elif event is Event.PARAMS:
            self.loop.set_params(controls.params)
            control = (
                f" \u00b7 control {controls.params.control_scale:.1f}" if look.has_edges else ""
            )
            viewer.say(f"feedback {controls.params.feedback:.1f}{control}")
        elif event is Event.NO_EDGES:
            viewer.say("nothing reads edges in this session; start it with --control sketch")
        elif event is Event.LOOK:
            viewer.say(f"smoothing {look.ema:.1f} \u00b7 camera {look.blend:.1f}")
        elif event is Event.PAUSE:
            self.loop.pause(not self.loop.paused)
            viewer.pause(self.loop.paused)
        elif event is Event.FULL_SCREEN:
            window.toggle_full_screen()
        elif event is Event.SNAPSHOT:
            path = self._new_path(".png")
            if viewer.save_snapshot(path):
                self._asked_for.append(path)
        elif event is Event.RECORD:
            path = self._new_path(".mp4")
            if viewer.toggle_recording(path):
                self._asked_for.append(path)

    def _new_path(self, suffix: str) -> Path:
        """A name of this second that no file has and no running recording will have."""
        stem = time.strftime("sdxs-%Y%m%d-%H%M%S")
        names = (f"{stem}{f'-{number}' if number > 1 else ''}{suffix}" for number in count(1))
        paths = (self._folder / name for name in names)
        return next(path for path in paths if path not in self._asked_for and not path.exists())

    def _encode_ahead(self) -> None:
        """Encode the list's prompts while the first one is on the screen, so that n and p are
        instant.
        """
        for prompt in list(self._controls.prompts):
            if self._over.is_set():
                return
            try:
                self._encode(prompt)
            except SdxsError:
                return  # it is met again, and said, by whoever asks for that prompt

    def _note_failure(self, done: "Future[None]") -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._viewer.announce("")
            self._viewer.say(
                f"prompt not changed: {error if isinstance(error, SdxsError) else repr(error)}"
            )

    def _finish(self) -> None:
        self._over.set()
        try:
            self._viewer.close()
        finally:
            if self._sheet:
                self._sheet.close()
            if self._ahead.ident is not None:
                self._ahead.join(AHEAD_JOIN_S)


def open_session(plan: Plan, checkpoint: Checkpoint, backends: Sequence[Backend]) -> Session:
    """Open the source, every sink and the text encoder; nothing is written and no backend loaded
    yet.

    Raises SourceError, SinkError, UsageError, ConfigError.
    """
    _refuse_one_file_twice(plan)
    for text in plan.prompts:
        parse_prompt(text)  # the last of them may be met in an hour
    one_pass = plan.frames is None and plan.headless and len(plan.prompts) == 1
    source = open_source(plan.source, plan.size, repeat=not one_pass)
    try:
        plan = _decide(plan, source)
        sinks = [open_sink(path, source.fps, bool(plan.realtime)) for path in plan.outs]
        hold = plan.hold or plan.frames or source.length or DEFAULT_HOLD
        sheet = Sheet(plan.contact_sheet, hold) if plan.contact_sheet else None
        if plan.stats:
            check_writable(plan.stats, plan.stats.absolute().parent)
        encoder = TextEncoder(checkpoint)
        prompts = [
            Prompt(text, encoder.encode(text))
            for text in (plan.prompts if plan.hold else plan.prompts[:1])
        ]
        window = None if plan.headless else Window()
    except SdxsError:
        source.close()
        raise
    has_edges = checkpoint.control is not None
    params = FrameParams(plan.seed, plan.feedback, plan.control_scale if has_edges else 0.0)
    settings = LoopOptions(
        plan.size,
        plan.frames,
        plan.hold or 0,
        bool(plan.realtime),
        plan.sequential,
        plan.skip_threshold,
        transition_s=plan.transition_s,
        edges=plan.edges if has_edges else "",
    )
    loop = Loop(source, backends, settings, prompts, params, encoder.encode)
    view = View.SIDE_BY_SIDE if plan.side_by_side or len(backends) > 1 else View.OUTPUT
    look = Look(view, plan.ema, plan.blend, plan.overlay, has_edges=has_edges)
    viewer = Viewer(plan.size, look, loop.stats, sinks, window)
    # In a window the keys lead through the user's prompts and on through the gallery.
    reachable = dict.fromkeys((*plan.prompts, *(() if plan.headless else GALLERY)))
    controls = Controls(tuple(reachable), params, look)
    return Session(plan, source, loop, viewer, controls, window, sheet, encoder.encode)


def _decide(plan: Plan, source: Source) -> Plan:
    """Fill in what the user left open: without a window, files are rendered frame by frame and
    then end.
    """
    realtime, hold, frames = plan.realtime, plan.hold, plan.frames
    if realtime is None:
        realtime = not (plan.headless and source.paced)
    if hold is None and plan.headless and len(plan.prompts) > 1:
        hold = source.length if source.length and source.length > 1 else DEFAULT_HOLD
    if frames is None and plan.headless and hold and source.paced:
        frames = hold * len(plan.prompts)
    return replace(plan, realtime=realtime, hold=hold, frames=frames)


def _refuse_one_file_twice(plan: Plan) -> None:
    """Raise UsageError if two outputs, or an output and the source, are the same file."""
    named = [("--out", path) for path in plan.outs]
    named += [
        (name, path)
        for name, path in (("--contact-sheet", plan.contact_sheet), ("--stats", plan.stats))
        if path
    ]
    seen = {} if plan.source.isdecimal() else {Path(plan.source).expanduser().resolve(): "--source"}
    for name, path in named:
        place = path.expanduser().resolve()
        if place in seen:
            raise UsageError(
                f"{name} {path}: is also {seen[place]}, and one would overwrite the other; name "
                "another file"
            )
        seen[place] = name
