"""A microphone, an audio interface or a loopback, by sounddevice (PortAudio).

PortAudio's thread only copies samples into a ring; the reader's thread computes. The callback must
neither block nor allocate, and an exception in it would end the stream without a word.
"""

from collections.abc import Callable
from typing import Protocol, cast

import numpy as np
import sounddevice

from ...errors import UsageError, in_a_line
from ...patience import Patience
from .bands import LEAST_RATE, MOST_RATE, Analyser, EarLost

DEFAULT = "default"
RING_S = 4.0
MOST_OPENED = 8  # channels; the default input of ALSA offers 64, of which two sound
GONE_S = 3.0  # without a sample; a device that was unplugged just stops under macOS
SILENT_S = 10.0
MUTE = (
    "delivers digital silence; check its switch and level and, on macOS, that System Settings > "
    "Privacy & Security > Microphone allows the program this runs in, then restart it"
)


class Stream(Protocol):
    """What sounddevice.InputStream is to us."""

    samplerate: float
    channels: int

    def start(self) -> None: ...
    def close(self) -> None: ...


Opener = Callable[..., Stream]


def input_names() -> list[tuple[int, str]]:
    """Return numbers and names of the inputs. Raises UsageError where PortAudio says it cannot."""
    try:
        found = sounddevice.query_devices()
    except sounddevice.PortAudioError as error:
        raise UsageError(f"the system has no sound ({in_a_line(error)})") from None
    return [
        (number, str(each["name"]))
        for number, each in enumerate(found)
        if each["max_input_channels"] > 0
    ]


def find_input(part: str) -> int | None:
    """Return the number of the one input with a part in its name; None for the system's default.

    Raises UsageError.
    """
    here = input_names()
    listed = ", ".join(in_a_line(name) for _, name in here)
    if not here:
        raise UsageError(f"--audio {part}: no audio input is connected; connect one")
    if part == DEFAULT:
        return None
    names = [(number, name) for number, name in here if part.lower() in name.lower()]
    exact = [each for each in names if each[1] == part]
    if len(exact or names) != 1:
        many = "several inputs have it in their names" if names else "no audio input has this name"
        raise UsageError(f"--audio {part}: {many}; there are {listed}, {DEFAULT}, or a WAV file")
    return (exact or names)[0][0]


class AudioDevice:
    """Hears one input of the system, now. See `Ear`."""

    is_live = True

    def __init__(self, part: str, opener: Opener | None = None) -> None:
        """Find the input. part: of its name. opener: sounddevice's own. Raises UsageError."""
        self.name = part
        self._index = find_input(part)
        self._opener = opener or cast(Opener, sounddevice.InputStream)
        self._stream: Stream | None = None
        self._written = self._read = 0  # samples since the start
        self._finished = False
        self._complaints: list[str] = []
        self._muted_s: float | None = 0.0

    def start(self) -> None:
        """Open the input at its own rate, with up to eight channels. Raises UsageError."""
        try:
            info = sounddevice.query_devices(self._index, "input")
            channels = min(int(info["max_input_channels"]), MOST_OPENED)
            rate = float(info["default_samplerate"])
            self.name = str(info["name"])
            if not LEAST_RATE <= rate <= MOST_RATE:
                raise UsageError(
                    f"--audio {self.name}: has {rate:g} samples a second; expected "
                    f"{LEAST_RATE:g} to {MOST_RATE:g}; set another rate"
                )
            self._ring = np.zeros((round(RING_S * rate), channels), np.float32)
            self._stream = self._opener(
                device=self._index,
                samplerate=rate,
                channels=channels,
                dtype="float32",
                callback=self._take,
                finished_callback=self._finish,
            )
            self._analyser = Analyser(rate, channels)
            self._patience, self._rate = Patience(), rate
            self._stream.start()
        except sounddevice.PortAudioError as error:
            self.close()
            raise UsageError(
                f"--audio {self.name}: cannot be opened ({in_a_line(error)}); check that no other "
                "program has it alone; `sdxs doctor` lists the inputs"
            ) from None

    def hear(self, at_s: float) -> np.ndarray:
        written = self._written  # one integer, which only PortAudio's thread changes
        new = written - self._read
        if new <= 0 and (self._finished or self._patience.waited_s() > GONE_S):
            why = "the system ended it" if self._finished else f"silent for {GONE_S:g} s"
            raise EarLost(f"--audio {self.name}: delivers no more sound ({why})")
        if new <= 0:
            return self._analyser.take(self._ring[:0])
        self._patience = Patience()
        size = len(self._ring)
        if new > size // 2:  # nobody listened for seconds; what is older is being overwritten
            self._read, new = written - size // 4, size // 4
        places = np.arange(self._read, written) % size
        samples, self._read = self._ring[places], written
        self._watch_for_silence(samples)
        return self._analyser.take(samples)

    def complaint(self) -> str:
        if self._analyser.wrong and not any("no numbers" in each for each in self._complaints):
            self._complaints.append(f"{self.name}: samples that are no numbers count as silence")
        return self._complaints[-1] if self._complaints else ""

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _watch_for_silence(self, samples: np.ndarray) -> None:
        """Complain once of an input that has sent nothing but zeros from its start."""
        if self._muted_s is None:
            return
        self._muted_s = None if samples.any() else self._muted_s + len(samples) / self._rate
        if self._muted_s is not None and self._muted_s > SILENT_S:
            self._muted_s = None
            self._complaints.append(f"{self.name}: {MUTE}")

    # PortAudio's thread.

    def _take(self, samples: np.ndarray, frames: int, time: object, status: object) -> None:
        """Copy samples into the ring, and no more."""
        ring, size = self._ring, len(self._ring)
        at = self._written % size
        fits = min(frames, size - at)
        ring[at : at + fits] = samples[:fits]
        if fits < frames:
            ring[: frames - fits] = samples[fits : fits + size]
        self._written += frames

    def _finish(self) -> None:
        self._finished = True
