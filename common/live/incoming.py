"""What comes in between two frames: values that glide, and what inputs have offered."""

from collections.abc import Callable, Sequence

from ..errors import UsageError
from ..io.inputs.controls import Controls, Input
from .glides import Glide, Glides
from .parameters import Change, LiveParameters, Set


class Incoming:
    """Runs the inputs of a session and hands on what they ask. Main thread only."""

    def __init__(
        self, controls: Controls, inputs: Sequence[Input], now_s: Callable[[], float]
    ) -> None:
        """now_s: the session's clock, which stands while the process is stopped."""
        self.glides = Glides()
        self._controls = controls
        self._inputs = inputs
        self._now_s = now_s
        self._began = False

    def glide(self, change: Set, before: LiveParameters, after: LiveParameters) -> None:
        """Begin a glide between two values of a parameter that are known to be valid."""
        start, end = getattr(before, change.name), getattr(after, change.name)
        self.glides.begin(change.name, Glide(start, end, self._now_s(), change.over_s))

    def take(self, use: Callable[[Set], None], apply: Callable[[Change, str], None]) -> None:
        """Take what is due and what waits; start the inputs first.

        use: takes values of a glide. apply: takes a change and its origin. Both raise UsageError
        for what cannot be. Raises what ended an input's thread.
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
        for request in self._controls.take():
            try:
                apply(request.change, request.origin)
            except UsageError as error:
                self._controls.refused()
                request.answer(str(error))
            else:
                request.answer("")

    def close(self) -> None:
        """Stop the inputs, and refuse what still waits."""
        try:
            for each in self._inputs:
                each.close()
        finally:
            self._controls.close()
