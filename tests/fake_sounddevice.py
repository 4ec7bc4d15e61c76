"""sounddevice in memory, as strict as its documentation and PortAudio's.

The callback runs on a thread of its own. Its samples are only valid during the call. It must call
nothing that may block, allocate or take its time: calls of Python functions are noted in `broken`,
and so are calls of C functions other than `len` and `min`. An exception in it ends the stream
without a word; the finished callback is then the only sign. A closed stream cannot be started.
"""

import sys
import threading
from collections.abc import Callable
from types import FrameType, ModuleType

import numpy as np

MAY_CALL = {"len", "min"}


class PortAudioError(Exception):
    """As sounddevice raises it."""


class Fake(ModuleType):
    """The module. devices: name, channels, rate. opens: False refuses every stream."""

    PortAudioError = PortAudioError

    def __init__(self, *devices: tuple[str, int, float]) -> None:
        super().__init__("sounddevice")
        self.devices, self.opens, self.broken = list(devices), True, list[str]()
        self.streams: list[Stream] = []

    def query_devices(self, device: int | None = None, kind: str | None = None) -> object:
        listed = [
            {"name": name, "max_input_channels": channels, "default_samplerate": rate}
            for name, channels, rate in self.devices
        ]
        if kind is None:
            return listed
        if device is None and not listed:
            raise PortAudioError("Error querying device -1")
        return listed[device or 0]

    def InputStream(self, **options: object) -> "Stream":
        if not self.opens:
            raise PortAudioError(
                "Error opening InputStream: Device unavailable [PaErrorCode -9985]"
            )
        self.streams.append(Stream(self, **options))  # type: ignore[arg-type]
        return self.streams[-1]


class Stream:
    def __init__(
        self,
        fake: Fake,
        *,
        device: int | None,
        samplerate: float,
        channels: int,
        dtype: str,
        callback: Callable[[np.ndarray, int, object, object], None],
        finished_callback: Callable[[], None],
    ) -> None:
        if channels > fake.devices[device or 0][1]:
            raise PortAudioError("Invalid number of channels [PaErrorCode -9998]")
        self._fake, self.samplerate, self.channels = fake, samplerate, channels
        self._callback, self._finished = callback, finished_callback
        self.active = self.closed = False
        assert dtype == "float32"

    def start(self) -> None:
        assert not self.closed, "Invalid stream pointer"
        self.active = True

    def close(self) -> None:
        self.closed = True
        self.end()

    def end(self) -> None:
        """End the stream, as the system does with a device that is unplugged."""
        if self.active:
            self.active = False
            self._finished()

    def send(self, samples: np.ndarray, block: int = 480) -> None:
        """Hand over samples, (N, channels) or (N,), in blocks, on a thread of PortAudio's."""
        sent = np.broadcast_to(
            np.atleast_2d(np.float32(samples).T).T, (len(samples), self.channels)
        )
        thread = threading.Thread(target=self._run, args=(sent, block))
        thread.start()
        thread.join()

    def _run(self, samples: np.ndarray, block: int) -> None:
        for first in range(0, len(samples), block):
            if not self.active:
                return
            buffer = samples[first : first + block].copy()
            sys.setprofile(self._note)
            try:
                self._callback(buffer, len(buffer), object(), None)
            except Exception:
                self.end()
            finally:
                sys.setprofile(None)
            buffer[:] = np.nan  # it is PortAudio's again

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        name = getattr(argument, "__name__", "")
        if event == "call" and frame.f_code.co_name != "_take":
            self._fake.broken.append(f"calls {frame.f_code.co_name}")
        elif event == "c_call" and name not in MAY_CALL and name != "setprofile":
            self._fake.broken.append(f"calls {name}")
