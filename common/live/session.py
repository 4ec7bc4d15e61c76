"""A session as a user has it: the loop, what it shows, the changes it takes, the files it leaves.

Whatever changes a running session goes through `Session.apply`, on the main thread: keys, and what
the other inputs have offered to `Session.controls` from their threads.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from pathlib import Path

from ..errors import SdxsError, SinkError, UsageError
from ..files import working_folder_is_gone
from ..io.inputs.controls import Controls, Request
from ..io.inputs.keys import Keys
from ..io.outputs.output import Outputs
from ..system import awake
from .effects import pass_on
from .incoming import Incoming
from .look import View
from .parameters import (
    PLACES,
    PROMPT_EVENTS,
    Change,
    Cue,
    Event,
    LiveParameters,
    Set,
    Step,
    apply,
    with_prompt,
)
from .parts import SessionParts
from .plan import Planned
from .stage import SCHEDULE, Stage
from .standing import EVERY_S, standing
from .stats import Summary
from .stats_file import write_stats
from .threads.display import DISPLAY_WAIT_S
from .threads.frames import LiveFrame

AHEAD_JOIN_S = 0.2
TYPING_WAIT_S = 0.005  # Qt keeps only the last key between two polls
SMOOTHING = 0.6  # of `Event.SMOOTHING` in a session that began without any
GLIDE = "glide"  # the origin of values on their way
NO_EDGES = "nothing reads edges in this session; start it with --control sketch"


class Session:
    """Applies changes, feeds sinks, keeps the files. Built and run on the main thread.

    values: of the live parameters now; the prompt is the one asked for, which may still be encoded.
    Sound adds to them without changing them.
    controls: the way in for every input that is not a key, from any thread.
    """

    def __init__(self, parts: SessionParts, values: LiveParameters) -> None:
        self.values = values
        self.source = parts.source
        self.loop = parts.loop
        self.prompts = parts.prompts
        self.controls = Controls(values, parts.unusable, lambda note: parts.viewer.say(note))
        self.total = parts.total
        self._parts = parts
        self._viewer = parts.viewer
        self._window = parts.window
        self._keys = Keys()
        inputs = [*parts.inputs, *([parts.page] if parts.page else [])]
        self._incoming = Incoming(self.controls, inputs, self._now_s, parts.stage or Stage())
        self._in_force = values  # with what sound adds
        self._told_s = -math.inf
        self._smoothing = values.ema or SMOOTHING
        self._asked_for: list[Path] = []
        self._folder = Path() if working_folder_is_gone() else Path.cwd()
        self._shown_prompt = ""
        # Prompts that could not be encoded, each with the values before; from the encoder's thread.
        self._not_encoded: deque[tuple[str, LiveParameters]] = deque()
        self._encode = parts.encode
        self._over = threading.Event()
        self._ahead = threading.Thread(
            target=self._encode_ahead, name="sdxs-encode-ahead", daemon=True
        )

    @property
    def files(self) -> list[Path]:
        """What the session has written, as far as it exists."""
        files = self._parts.files
        beside = [path for path in (files.contact_sheet, files.stats, *self._asked_for) if path]
        there = [path for path in beside if path.exists()] if self.loop.stats.shown else []
        return [*self._viewer.written, *there]

    @property
    def outputs(self) -> Outputs:
        """Where the session is shown live."""
        return self._viewer.outputs

    def run(self, report: Callable[[int, str], None]) -> Summary:
        """Run to the end.

        report: called after each frame with the number of frames shown and the prompt.

        Raises whatever ended the session early; what was written until then is kept.
        """

        def show(frame: LiveFrame) -> None:
            self._incoming.saw(frame.source_ns)
            if frame.planned:
                self._obey(frame.planned)
            self._viewer.show(frame)
            for event in frame.planned.events if frame.planned else ():
                self.apply(event, SCHEDULE)
            if self._parts.sheet:
                self._parts.sheet.add(frame)
            if self._parts.page:
                self._parts.page.show(frame)
            if (self._window or self._parts.page) and self._ahead.ident is None:
                self._ahead.start()
            self._follow(frame.prompt)
            report(self.loop.stats.shown + 1, frame.prompt)

        try:
            with awake():
                summary = self.loop.run(show, self._idle, self._finish)
        except BaseException as error:
            try:
                self._write_stats()
            except SinkError as second:
                error.add_note(f"and then: {second}")
            raise
        self._write_stats()
        return summary

    # Changes.

    def apply(self, change: Change, origin: str = "") -> None:
        """Apply one change to the running session; the one way in for every input. Main thread.

        origin: the input that asks, for those that watch. Raises UsageError if it cannot be, and
        has changed nothing then.
        """
        if isinstance(change, Event):
            if change.value in self._parts.unusable:
                raise UsageError(self._parts.unusable[change.value])
            self._happen(change)
        elif isinstance(change, Cue):
            self._incoming.go_to(change)
        elif isinstance(change, Set) and change.over_s:
            self._incoming.glide(
                change, self.values, apply(self.values, change, self._parts.unusable)
            )
        else:
            self._change(change)
            self._incoming.glides.forget(change.name)
        self.controls.publish(self.values, origin, change if isinstance(change, Event) else None)

    def _now_s(self) -> float:
        return (time.perf_counter_ns() - self.loop.stats.stopped_ns) / 1e9

    def _obey(self, planned: Planned) -> None:
        """Take what the schedule of a file says from this frame on; the threads have it already."""
        set_, there = planned.base or planned.values, planned.values
        self.values = replace(self.values, **{n: getattr(set_, n) for n in planned.names})
        self._in_force = replace(self.values, **{n: getattr(there, n) for n in planned.names})
        self._viewer.use(self._in_force)
        self.controls.publish(self.values, SCHEDULE)

    def _change(self, change: Set | Step) -> None:
        before = self.values
        self.values = apply(before, change, self._parts.unusable)
        self._smoothing = self.values.ema or self._smoothing
        self._in_force = self._incoming.in_force(self.values)
        self._viewer.use(self._in_force)
        if change.name in ("prompt", *PLACES):
            self._change_prompt(change, before)
        else:
            pass_on(change.name, self._in_force, self._parts, self.values)

    def _obey_sound(self) -> None:
        """Let what sound adds take effect; the values that are set stay what they are."""
        before, now = self._in_force, self._incoming.in_force(self.values)
        names = [n for n in self._incoming.by_sound if getattr(before, n) != getattr(now, n)]
        if names:
            self._in_force = now
            self._viewer.use(now)
        if not set(PLACES).isdisjoint(names):
            self.loop.set_prompt(now.written_prompt)
        for name in (each for each in names if each not in PLACES):
            pass_on(name, now, self._parts)

    def _change_prompt(self, change: Set | Step, before: LiveParameters) -> None:
        text = self.values.written_prompt
        if change.name == "prompt":
            self.prompts.use(str(change.value) if isinstance(change, Set) else text)
        elif self.values == before:
            return
        else:
            self.prompts.rewrite(text)
        self._viewer.announce(text)
        done = self.loop.set_prompt(self._in_force.written_prompt)
        done.add_done_callback(lambda done: self._note_failure(done, text, before))

    def _happen(self, event: Event) -> None:
        viewer, look = self._viewer, self._viewer.look
        match event:
            case Event.QUIT:
                self.loop.stop()
            case Event.SNAPSHOT:
                if viewer.save_snapshot(path := self._new_path(".png")):
                    self._asked_for.append(path)
            case Event.RECORD:
                if viewer.toggle_recording(path := self._new_path(viewer.recording_suffix)):
                    self._asked_for.append(path)
            case Event.NEXT_PROMPT:
                self._go_to(self.prompts.turned(1))
            case Event.PREVIOUS_PROMPT:
                self._go_to(self.prompts.turned(-1))
            case Event.SMOOTHING:
                self.apply(Set("ema", 0.0 if self.values.ema else self._smoothing))
            case Event.TYPE_PROMPT:
                self._keys.typed = ""
            case Event.SIDE_BY_SIDE:
                look.toggle(View.SIDE_BY_SIDE)
            case Event.SPLIT:
                look.toggle(View.SPLIT)
            case Event.EDGES:
                look.toggle(View.EDGES)
            case Event.OVERLAY:
                look.overlay = not look.overlay
            case Event.HELP:
                look.help = not look.help
            case Event.FULL_SCREEN:
                if self._window:
                    self._window.toggle_full_screen()
            case _ if event in PROMPT_EVENTS:
                self._go_to(PROMPT_EVENTS.index(event))
            case _:
                self._incoming.happen(event)

    def _go_to(self, index: int) -> None:
        """Go to a prompt of the list; nothing happens if it has not so many."""
        if index < len(self.prompts.texts):
            self.apply(Set("prompt", self.prompts.texts[index]))
            self.prompts.index = index  # also where a text is in the list twice

    # Between frames, on the main thread.

    def _idle(self) -> None:
        while self._not_encoded:
            text, before = self._not_encoded.popleft()
            if self.values.written_prompt == text:
                kept = {name: getattr(before, name) for name in ("prompt", *PLACES)}
                self.values = replace(self.values, **kept)
                self.controls.publish(self.values)
        self._incoming.take(self.values, self._change, self.apply)
        self._obey_sound()
        self.controls.publish(self.values, GLIDE)
        self._viewer.hear()
        if self._parts.page and (now := time.monotonic()) - self._told_s >= EVERY_S:
            self._told_s = now
            self._parts.page.tell(standing(self.loop, self._viewer, self.prompts))
        if self._window is None:
            return
        while (key := self._window.key()) is not None:
            self._press(key)
        self._viewer.look.typed = self._keys.typed
        self.loop.display.wait_s = DISPLAY_WAIT_S if self._keys.typed is None else TYPING_WAIT_S
        if self._window.closed:
            self.loop.stop()
        self._viewer.refresh()

    def _press(self, key: int) -> None:
        change = self._keys.press(key)
        if change is None:
            return

        def say(why: str) -> None:
            typed = isinstance(change, Set) and change.name == "prompt"
            if why:
                self._viewer.say(f"prompt not changed: {why}" if typed else why)

        self._incoming.ask(Request(change, "key", say), self.apply)

    def _follow(self, prompt: str) -> None:
        """Keep the values true where prompts take turns by themselves."""
        if self._parts.follows and prompt != self._shown_prompt:
            self.values = with_prompt(self.values, prompt)
            self.controls.publish(self.values)
        self._shown_prompt = prompt

    def _new_path(self, suffix: str) -> Path:
        """A name of this second that no file has and no running recording will have."""
        stem = time.strftime("sdxs-%Y%m%d-%H%M%S")
        names = (f"{stem}{f'-{number}' if number > 1 else ''}{suffix}" for number in count(1))
        paths = (self._folder / name for name in names)
        return next(path for path in paths if path not in self._asked_for and not path.exists())

    # Other threads.

    def _encode_ahead(self) -> None:
        """Encode the list's prompts behind the first, so that n and p are instant."""
        for prompt in list(self.prompts.texts):
            if self._over.is_set():
                return
            try:
                self._encode(prompt)
            except SdxsError:
                return  # it is met again, and said, by whoever asks for that prompt

    def _note_failure(self, done: "Future[None]", text: str, before: LiveParameters) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._not_encoded.append((text, before))
            self._viewer.announce("")
            self._viewer.say(
                f"prompt not changed: {error if isinstance(error, SdxsError) else repr(error)}"
            )

    # The end.

    def _finish(self) -> None:
        self._over.set()
        try:
            self._incoming.close()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        try:
            self._viewer.close()
        finally:
            if self._parts.sheet:
                self._parts.sheet.close()
            if self._ahead.ident is not None:
                self._ahead.join(AHEAD_JOIN_S)

    def _write_stats(self) -> None:
        path, summary = self._parts.files.stats, self.loop.summary
        if path and summary:
            write_stats(path, summary, self.values, self.controls.counts, self.outputs.said)
