"""Where inputs meet a running session: changes go in, what became of them comes out.

An input is handed a `Controls` (`session.controls`) and knows nothing else of the session:

    controls.offer(Set("blend", 0.5), "osc", answer)   # any thread; never waits, never raises
    stop = controls.watch(tell)                        # tell(news) after each change, of any input
    controls.values, controls.unusable, controls.counts

The session takes what waits between two frames, on the main thread. A flood is bounded: of one
parameter the latest `Set` wins, `Step`s of one number are added up, an event that waits already is
not queued again where once is enough, and beyond MOST_WAITING changes the newest is refused. All of
it is counted. `reading.py` turns texts and numbers of a protocol into changes.
"""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from ...errors import UsageError
from ...live.parameters import (
    PLACES,
    PROMPT_EVENTS,
    TABLE,
    Change,
    Cue,
    Event,
    LiveParameters,
    Set,
    Step,
    row_of,
)

MOST_WAITING = 256  # changes between two frames
MOST_TEXT = 4000  # characters of a value; a bank of prompts may be long
OVER = "the session is over"
FULL = f"{MOST_WAITING} changes wait already and this one is dropped; send fewer"
# Once between two frames is as good as twice.
_ONCE = {Event.SNAPSHOT, Event.QUIT, Event.RESTART, Event.LEARN, *PROMPT_EVENTS}

# Called once: with '' when a change was applied, or when a later one has taken its place, else with
# the reason why not. Any thread; must return at once and raise nothing.
Answer = Callable[[str], None]


def unheard(_: str) -> None:
    """Answer nobody."""


@dataclass(frozen=True, slots=True)
class Request:
    """A change that waits. origin: the input that asks, 'osc' say.

    others: of other origins, by origin; this one takes the place of theirs, and they hear when.
    """

    change: Change
    origin: str = ""
    answer: Answer = unheard
    others: Mapping[str, Answer] = field(default_factory=dict)

    def reply(self, why: str) -> None:
        """Answer everybody who waits for this change."""
        self.answer(why)
        for each in self.others.values():
            each("")


@dataclass(frozen=True, slots=True)
class News:
    """What became of a change.

    values: all of them now. names: of those that are not as before. origin: the input that asked.
    event: what happened, if that is what was asked for.
    """

    values: LiveParameters
    names: tuple[str, ...] = ()
    origin: str = ""
    event: Event | None = None


Watcher = Callable[[News], None]  # main thread; must return at once and raise nothing


@dataclass(frozen=True, slots=True)
class Counts:
    """Changes so far. Those neither merged, dropped nor refused were applied, or still wait.

    merged: a later change took their place. dropped: too many waited. refused: invalid. malformed:
    messages that no change could be read from; they were not offered.
    """

    offered: int = 0
    merged: int = 0
    dropped: int = 0
    refused: int = 0
    malformed: int = 0


class Input(Protocol):
    """What changes a session beside the window's keys: a server, a device, a file."""

    def start(self, controls: "Controls") -> None:
        """Begin to offer changes. Main thread, before the first frame. Raises SdxsError."""

    def close(self) -> None:
        """Stop and free everything; calling it again does nothing. Main thread."""


@dataclass(slots=True)
class _Waiting:
    requests: list[Request] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: asdict(Counts()))
    closed: bool = False
    failure: BaseException | None = None


class Controls:
    """The way into one session. Any thread, but for `take`, `publish` and `close`."""

    def __init__(
        self,
        values: LiveParameters,
        unusable: Mapping[str, str] = MappingProxyType({}),
        say: Callable[[str], None] = unheard,
    ) -> None:
        """unusable: parameters and events without effect in this session, each with the reason.

        say: shows a note to whoever sits at the window; any thread.
        """
        self.say = say
        self.values = values  # replaced whole, never changed
        self.unusable = unusable
        self._lock = threading.Lock()
        self._waiting = _Waiting()
        self._watchers: tuple[Watcher, ...] = ()

    # Any thread.

    def offer(self, change: Change, origin: str = "", answer: Answer = unheard) -> None:
        """Ask for a change; it is applied between two frames, and `answer` says what became of it.

        Values are checked when it is applied, so this says nothing of them.
        """
        said = ""
        replaced: list[Answer] = []
        with self._lock:
            self._count(offered=1)
            try:
                _check(change)
            except UsageError as error:
                said = str(error)
                self._count(refused=1)
            else:
                said, replaced = self._queue(Request(change, origin, answer))
        for each in replaced:
            each("")
        if said:
            answer(said)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Have a function told of each change from now on; return what ends that."""
        with self._lock:
            self._watchers = (*self._watchers, watcher)

        def stop() -> None:
            with self._lock:
                self._watchers = tuple(each for each in self._watchers if each is not watcher)

        return stop

    def fail(self, error: BaseException) -> None:
        """Hand over what ended an input's thread; the session raises it."""
        with self._lock:
            self._waiting.failure = self._waiting.failure or error

    def malformed(self) -> None:
        """Count a message that no change could be read from."""
        with self._lock:
            self._count(malformed=1)

    def superseded(self) -> None:
        """Count a change that was not offered, because a later one takes its place."""
        with self._lock:
            self._count(offered=1, merged=1)

    @property
    def counts(self) -> Counts:
        return Counts(**self._waiting.counts)

    # The session, on the main thread.

    def take(self) -> list[Request]:
        """Return what waits, in order. Raises what ended an input's thread."""
        if not (self._waiting.requests or self._waiting.failure):
            return []
        with self._lock:
            taken, self._waiting.requests = self._waiting.requests, []
            if self._waiting.failure is not None:
                raise self._waiting.failure
        return taken

    def refused(self) -> None:
        """Count a change that the session found invalid."""
        with self._lock:
            self._count(refused=1)

    def publish(self, values: LiveParameters, origin: str = "", event: Event | None = None) -> None:
        """Tell every watcher what is so now; nothing changed and no event: nothing is told."""
        before, self.values = self.values, values
        names = tuple(n for n in TABLE if getattr(before, n) != getattr(values, n))
        if names or event is not None:
            news = News(values, names, origin, event)
            for watcher in self._watchers:
                watcher(news)

    def close(self) -> None:
        """Refuse everything from now on, also what waits."""
        with self._lock:
            self._waiting.closed = True
            left, self._waiting.requests = self._waiting.requests, []
        for each in left:
            each.reply(OVER)

    # With the lock.

    def _queue(self, request: Request) -> tuple[str, list[Answer]]:
        """Let a request wait; return why not, and those who need not wait any longer."""
        waiting = self._waiting.requests
        if self._waiting.closed:
            self._count(refused=1)
            return OVER, []
        request, replaced = _merged(waiting, request)
        request, mine = _heard_with(request, replaced)
        for each in replaced:
            del waiting[next(i for i, one in enumerate(waiting) if one is each)]
        if len(waiting) >= MOST_WAITING:
            self._count(dropped=1)
            return FULL, []
        waiting.append(request)
        self._count(merged=len(replaced))
        return "", mine

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            self._waiting.counts[name] += number


def _check(change: Change) -> None:
    """Refuse what has no place in the queue: unknown names, texts without an end."""
    if isinstance(change, Set | Step):
        row_of(change.name)
    text = change.value if isinstance(change, Set) else getattr(change, "name", "")
    if isinstance(text, str) and len(text) > MOST_TEXT:
        raise UsageError(f"a text of {len(text)} characters; expected {MOST_TEXT} at most")


def _merged(waiting: list[Request], request: Request) -> tuple[Request, list[Request]]:
    """Return the request as it is to wait, and those that it takes the place of.

    An event or a cue is a border: what was asked before it happens before it.
    """
    change, same = request.change, list[Request]()
    if isinstance(change, Event):
        last = waiting[-1] if waiting else None
        return request, [last] if last and last.change is change and change in _ONCE else []
    if isinstance(change, Cue):
        return request, []
    names = {change.name} | (set(PLACES) if change.name == "prompt" else set())
    for each in reversed(waiting):
        if isinstance(each.change, Event | Cue):
            break
        if each.change.name in names:
            same.append(each)
    if isinstance(change, Set):
        return request, same
    last = same[0] if same else None
    if last is None or not isinstance(last.change, Step) or not _adds_up(last.change, change):
        return request, []
    summed = Step(change.name, last.change.delta + change.delta)
    return replace(request, change=summed), [last]


def _heard_with(request: Request, replaced: list[Request]) -> tuple[Request, list[Answer]]:
    """Return the request with those of other origins that it is to answer, and the other answers.

    Of each origin one waits, so that a flood ends somewhere.
    """
    others: dict[str, Answer] = {}
    done: list[Answer] = []
    for each in replaced:
        for origin, answer in [*each.others.items(), (each.origin, each.answer)]:
            if origin == request.origin:
                done.append(answer)
                continue
            if origin in others:
                done.append(others[origin])
            others[origin] = answer
    return replace(request, others=others), done


def _adds_up(first: Step, second: Step) -> bool:
    row = TABLE[first.name]
    return row.kind in (int, float) and math.isfinite(first.delta + second.delta)
