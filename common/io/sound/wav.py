"""A WAV file as a source of sound, by its own time: the same picture from the same file.

PCM of 8, 16, 24 and 32 bits, and floats of 32 and 64 bits, also where the header is extensible.
"""

import struct
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ...errors import UsageError, reason
from .bands import HOPS_A_SECOND, LEAST_RATE, MOST_CHANNELS, MOST_RATE, NAMES, Analyser, EarLost

TAKES = "a WAV file of 8 to 32 bits or of floats; `ffmpeg -i FILE sound.wav` makes one of any"
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
BLOCK = 1 << 16  # samples that are read at once
UNTOLD = 0xFFFFFFFF  # the size of data that a program wrote into a pipe
MOST_CHUNKS = 1000


class WavFile:
    """Hears a file up to any time that does not go back; after its end is silence. See `Ear`."""

    is_live = False

    def __init__(self, path: Path) -> None:
        """Read the header; the file is opened again when it is heard. Raises UsageError."""
        self.name = path.name
        self._path, self._file, self._closed = path, cast(BinaryIO | None, None), False
        try:
            with path.open("rb") as file:
                self._read_header(file)
                self._at = file.tell()
        except (UsageError, OSError, ValueError, struct.error) as error:
            said = "its header is damaged"
            if isinstance(error, OSError):
                said = f"not readable ({reason(error)})"
            elif isinstance(error, UsageError):
                said = str(error)
            raise UsageError(f"--audio {path}: {said}; expected {TAKES}") from None
        self._analyser = Analyser(self.rate, self.channels)
        self._heard_hops = 0
        self._ready = np.zeros((0, len(NAMES)))

    def start(self) -> None:
        pass  # it needs no preparation

    def hear(self, at_s: float) -> np.ndarray:
        """Return the hops that end between the last call's time and this one's."""
        wanted = int(at_s * HOPS_A_SECOND + 1e-6) - self._heard_hops
        if wanted <= 0:
            return self._ready[:0]
        while len(self._ready) < wanted and (samples := self._read()) is not None:
            self._ready = np.concatenate([self._ready, self._analyser.take(samples)])
        found, self._ready = self._ready[:wanted], self._ready[wanted:]
        self._heard_hops += wanted
        if len(found) < wanted:
            found = np.concatenate([found, np.zeros((wanted - len(found), len(NAMES)))])
        return found

    def complaint(self) -> str:
        wrong = self._analyser.wrong
        return f"{self.name}: samples that are no numbers count as silence" if wrong else ""

    def close(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()

    def _read(self) -> np.ndarray | None:
        """Return the next samples, float32 (N, channels), or None at the end."""
        frame = self.channels * self._bytes
        if self._closed:
            return None
        try:
            if self._file is None:
                self._file = self._path.open("rb")
                self._file.seek(self._at)
            stored = self._file.read(min(BLOCK * frame, self._left))
        except OSError as error:
            raise EarLost(f"--audio {self._path}: not readable ({reason(error)})") from None
        self._left -= len(stored)
        whole = stored[: len(stored) // frame * frame]
        if not whole:
            return None
        return _numbers(whole, self._format, self._bytes).reshape(-1, self.channels)

    def _read_header(self, file: BinaryIO) -> None:
        """Find format and data. Raises UsageError, struct.error."""
        kind, _, form = struct.unpack("<4sI4s", file.read(12))
        if kind == b"RF64":
            raise UsageError("is an RF64, of more than 4 GB")
        if kind != b"RIFF" or form != b"WAVE":
            raise UsageError("is no WAV file")
        described = False
        for _ in range(MOST_CHUNKS):
            name, size = struct.unpack("<4sI", file.read(8))
            if name == b"fmt ":
                self._describe(file.read(min(size, 64)))
                described = True
                file.seek(max(0, size - 64) + size % 2, 1)
            elif name == b"data" and described:
                self._left = 1 << 62 if size in (0, UNTOLD) else size
                return
            else:
                file.seek(size + size % 2, 1)
        raise UsageError("has no sound")

    def _describe(self, stored: bytes) -> None:
        kind, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", stored)
        if kind == EXTENSIBLE:
            (kind,) = struct.unpack_from("<H", stored, 24)
        known = {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}
        if bits not in known.get(kind, ()):
            raise UsageError(f"its samples are of kind {kind} with {bits} bits")
        if not 1 <= channels <= MOST_CHANNELS or frame != channels * bits // 8:
            raise UsageError(f"it has {channels} channels in {frame} bytes")
        if not LEAST_RATE <= rate <= MOST_RATE:
            raise UsageError(f"it has {rate} samples a second")
        self.rate, self.channels = float(rate), int(channels)
        self._format, self._bytes = kind, bits // 8


def _numbers(stored: bytes, kind: int, size: int) -> np.ndarray:
    """Return samples as float32, full scale 1."""
    if kind == FLOAT:
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite, and no number
            return np.frombuffer(stored, f"<f{size}").astype(np.float32)
    if size == 1:
        return (np.frombuffer(stored, np.uint8).astype(np.float32) - 128) / 128
    if size == 3:
        wide = np.zeros((len(stored) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(stored, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    return np.frombuffer(stored, f"<i{size}").astype(np.float32) / np.float32(2 ** (8 * size - 1))
