"""The beat of a session: a tempo that is set, tapped, or follows a MIDI clock or Ableton Link.

Beats are counted from 0 where the session begins; a beat is a whole number. Times are seconds on
one clock that the caller chooses, so a test needs no waiting. Any thread may call anything.
"""

import threading
from collections import deque
from statistics import median

from ...errors import UsageError

SLOWEST, FASTEST = 20.0, 400.0  # beats a minute
TAPS = 8
TAP_PAUSE_S = 3.0  # a longer pause begins a new count; the slowest beat
CLOCKS_A_BEAT = 24  # of MIDI
CLOCKS_KEPT = 2 * CLOCKS_A_BEAT
CATCH_UP = 0.1  # of how far the count is from the master's, at each of its clocks
GOES_BACK = 0.25  # beats; less is the jitter of a master's clock
CLOCK_PAUSE_S = 0.5  # a master that stood still


class Tempo:
    """Beats as a function of time, continuous where the tempo changes."""

    def __init__(self, bpm: float, now_s: float = 0.0) -> None:
        """bpm: beats a minute. now_s: when beat 0 was. Raises UsageError."""
        self._lock = threading.Lock()
        self._bpm = _checked(bpm)
        self._at_s, self._at_beat = now_s, 0.0
        self._taps: deque[float] = deque(maxlen=TAPS)
        self._clocks: deque[float] = deque(maxlen=CLOCKS_KEPT)
        self._clock = 0  # ticks since the master's start
        self._led = False  # by a master whose start was heard, so that its beats are known
        self._highest = 0.0
        self._asked: float | None = None  # set or tapped here, and not yet told to a master

    @property
    def bpm(self) -> float:
        return self._bpm

    def beats(self, now_s: float) -> float:
        """Return how many beats have passed; never less than before, unless counted anew."""
        with self._lock:
            self._highest = max(self._highest, self._beats(now_s))
            return self._highest

    def set(self, bpm: float, now_s: float) -> None:
        """Take another tempo; the count goes on from where it is. Raises UsageError."""
        bpm = _checked(bpm)
        with self._lock:
            self._go_on(now_s, self._beats(now_s), bpm)
            self._asked = bpm

    def lead(self, bpm: float, beat: float, now_s: float) -> None:
        """Take tempo and beat of a master that knows both; one that goes back is counted anew."""
        with self._lock:
            if beat < self._highest - GOES_BACK:
                self._highest = beat
            self._go_on(now_s, beat, bpm)

    def take_asked(self) -> float | None:
        """Return the tempo that was set or tapped here since the last call, if one was."""
        with self._lock:
            asked, self._asked = self._asked, None
            return asked

    def begin(self, now_s: float) -> None:
        """Count anew: now is beat 0, of a master's start say."""
        with self._lock:
            self._clock, self._led, self._highest = 0, True, 0.0
            self._clocks.clear()
            self._at_s, self._at_beat = now_s, 0.0

    def tap(self, now_s: float) -> float | None:
        """Take a tap for a beat; from the second on return the tempo of the last taps.

        A tap after a long pause, or one that comes sooner than the fastest beat, counts as a first.
        """
        with self._lock:
            if self._taps and not 60 / FASTEST <= now_s - self._taps[-1] <= TAP_PAUSE_S:
                self._taps.clear()
            self._taps.append(now_s)
            beat = round(self._beats(now_s))
            if len(self._taps) < 2:
                self._go_on(now_s, float(beat), self._bpm)
                return None
            bpm = 60 * (len(self._taps) - 1) / (self._taps[-1] - self._taps[0])
            self._go_on(now_s, float(beat), min(FASTEST, max(SLOWEST, bpm)))
            self._asked = self._bpm
            return self._bpm

    def clock(self, now_s: float) -> None:
        """Take one of the 24 MIDI clocks of a beat; the count follows them, smoothed."""
        with self._lock:
            if self._clocks and not 0 < now_s - self._clocks[-1] <= CLOCK_PAUSE_S:
                self._clocks.clear()
            self._clocks.append(now_s)
            self._clock += 1
            if len(self._clocks) < CLOCKS_A_BEAT:
                return
            times = list(self._clocks)
            half = len(times) // 2  # medians of both halves: one late message moves neither
            apart_s = median(times[-half:]) - median(times[:half])
            bpm = 60 * (len(times) - half) / CLOCKS_A_BEAT / apart_s if apart_s > 0 else self._bpm
            if SLOWEST <= bpm <= FASTEST:
                beat = self._beats(now_s)
                late = (self._clock - 1) / CLOCKS_A_BEAT - beat if self._led else 0.0
                late -= round(late)  # of a beat; the count may have gone on while the master stood
                self._go_on(now_s, beat + CATCH_UP * late, bpm)

    def _beats(self, now_s: float) -> float:
        return self._at_beat + max(0.0, now_s - self._at_s) * self._bpm / 60

    def _go_on(self, now_s: float, beat: float, bpm: float) -> None:
        self._at_s, self._at_beat, self._bpm = now_s, beat, bpm


def _checked(bpm: float) -> float:
    if not SLOWEST <= bpm <= FASTEST:
        raise UsageError(f"tempo {bpm:g}: expected {SLOWEST:g} to {FASTEST:g} beats a minute")
    return bpm
