"""What comes in between two frames: glides, the schedule, and what inputs have offered."""

import math
from collections.abc import Callable, Sequence

from ..errors import UsageError
from ..io.inputs.controls import Controls, Input, News, Request
from .glides import Glide, Glides
from .parameters import Change, Cue, Event, LiveParameters, Set
from .stage import SCHEDULE, Stage

NO_SCHEDULE = "there is no schedule in this session; start it with --schedule FILE"
Apply = Callable[[Change, str], None]  # takes a change and its origin; raises UsageError


class Incoming:
    """Runs the inputs of a session and hands on what they ask. Main thread only."""

    def __init__(
        self,
        controls: Controls,
        inputs: Sequence[Input],
        now_s: Callable[[], float],
        stage: Stage,
    ) -> None:
        """now_s: the session's clock, which stands while the process is stopped."""
        self.glides = Glides()
        self._controls = controls
        self._inputs = inputs
        self._now_s = now_s
        self._stage = stage
        self._held = Controls(controls.values)  # until a beat
        self._held_until = self._held_since = 0.0
        self._began = False
        controls.watch(self._let_go)

    def glide(self, change: Set, before: LiveParameters, after: LiveParameters) -> None:
        """Begin a glide between two values of a parameter that are known to be valid."""
        start, end = getattr(before, change.name), getattr(after, change.name)
        self.glides.begin(change.name, Glide(start, end, self._now_s(), change.over_s))

    def saw(self, source_ns: int | None) -> None:
        """Note that a frame is shown, and its own time if it has one."""
        for each in (self._stage.playing, self._stage.sound):
            if each:
                each.saw(source_ns)

    @property
    def by_sound(self) -> tuple[str, ...]:
        """The parameters that sound moves."""
        return self._stage.sound.names if self._stage.sound else ()

    def in_force(self, values: LiveParameters) -> LiveParameters:
        """Return what is in force of the values that are set: with what sound adds to them."""
        return self._stage.sound.of(values) if self._stage.sound else values

    def take(self, values: LiveParameters, use: Callable[[Set], None], apply: Apply) -> None:
        """Take what is due and what waits; start the inputs first.

        use: takes values of a glide, as `apply` takes the rest. Raises what ended an input's
        thread.
        """
        if not self._began:
            self._began = True
            for each in self._inputs:
                each.start(self._controls)
        for step in self.glides.at(self._now_s()):
            try:
                use(step)
            except UsageError:  # the prompt has changed by itself to one without such a place
                self.glides.forget(step.name)
        stage, beats = self._stage, self._stage.beats
        if stage.sound:
            stage.sound.listen(self._now_s())
        if stage.playing:
            for change in stage.playing.due(values, self._now_s(), beats, stage.tempo.bpm):
                self._controls.offer(change, SCHEDULE)
        if beats >= self._held_until or beats < self._held_since:  # counted anew
            for request in self._held.take():
                self._answer(request, apply)
        for request in self._controls.take():
            self.ask(request, apply)

    def ask(self, request: Request, apply: Apply) -> None:
        """Apply a change now, or hold it back until its beat; answer either way."""
        if not self._stage.holds(request.change, request.origin):
            self._answer(request, apply)
            return
        beats, quantum = self._stage.beats, self._stage.on_beat
        if beats >= self._held_until or beats < self._held_since:
            self._held_since = beats
            self._held_until = (math.floor(beats / quantum) + 1) * quantum
        self._held.offer(request.change, request.origin, request.reply)

    def go_to(self, cue: Cue) -> None:
        """Jump to a cue of the schedule. Raises UsageError."""
        if self._stage.playing is None:
            raise UsageError(NO_SCHEDULE)
        self._stage.playing.player.go_to(cue.name)

    def happen(self, event: Event) -> None:
        """Take an event of beat or schedule; any other is for the inputs that watch.

        Raises UsageError.
        """
        if event is Event.TAP and (bpm := self._stage.tempo.tap(self._stage.clock())):
            self._controls.say(f"tempo {bpm:.1f} beats a minute")
        if event not in (Event.NEXT_CUE, Event.PREVIOUS_CUE, Event.RESTART):
            return
        if self._stage.playing is None:
            raise UsageError(NO_SCHEDULE)
        if event is Event.RESTART:
            self._stage.playing.player.restart()
        else:
            self._stage.playing.player.step(1 if event is Event.NEXT_CUE else -1)

    def close(self) -> None:
        """Stop the inputs, and refuse what still waits."""
        try:
            for each in self._inputs:
                each.close()
        finally:
            self._held.close()
            self._controls.close()

    def _answer(self, request: Request, apply: Apply) -> None:
        try:
            apply(request.change, request.origin)
        except UsageError as error:
            self._controls.refused()
            request.reply(str(error))
        else:
            request.reply("")

    def _let_go(self, news: News) -> None:
        """Whoever takes a knob has it, until the schedule sets it again."""
        if self._stage.playing and news.origin != SCHEDULE:
            for name in news.names:
                self._stage.playing.player.forget(name)
