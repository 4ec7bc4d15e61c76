"""Sensors of energy that tell what a test wants, and an NVML with one made-up GPU."""

import ctypes
import time
from collections.abc import Callable, Mapping

from sdxs.common.errors import SensorError


class FakeSensor:
    """Counts `watts` by channel on the clock that windows are taken by."""

    name = "fake"
    how = "made up"
    silent: Mapping[str, str] = {}

    def __init__(self, lost_after: int | None = None, **watts: float) -> None:
        """lost_after: readings after which it is gone. watts: by channel, CPU=10."""
        self.channels = tuple(watts)
        self.closed, self.at_ns = False, 0
        self._watts, self._left = watts, lost_after

    def read(self) -> dict[str, float]:
        self.at_ns = time.perf_counter_ns()
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise SensorError("the driver was unloaded")
        return {channel: watts * self.at_ns / 1e9 for channel, watts in self._watts.items()}

    def close(self) -> None:
        self.closed = True


class FakeNvml:
    """The library: each function returns a code and writes through its pointers."""

    def __init__(self, energy: Callable[[], int] | int = 0, power: int | None = None) -> None:
        """energy: the counter in mJ, or the code it fails with. power: in mW, or None."""
        self._energy, self._power = energy, power
        self.indices: list[object] = []
        self.open = 0
        self.nvmlErrorString = _words

    def nvmlInit_v2(self) -> int:
        self.open += 1
        return 0

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, device: object) -> int:
        self.indices.append(index.value)
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: ctypes.c_char_p, device: object) -> int:
        self.indices.append(uuid.value)
        return 6 if uuid.value == b"GPU-unknown" else 0

    def nvmlDeviceGetName(self, device: object, text: ctypes.Array, size: object) -> int:
        text.value = b"Made-up 100"
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, device: object, found: object) -> int:
        if isinstance(self._energy, int):
            return self._energy
        found._obj.value = self._energy()  # type: ignore[attr-defined]
        return 0

    def nvmlDeviceGetPowerUsage(self, device: object, found: object) -> int:
        if self._power is None:
            return 3
        found._obj.value = self._power  # type: ignore[attr-defined]
        return 0


def _words(code: ctypes.c_int) -> bytes:
    return {6: b"Not Found", 15: b"GPU is lost"}[code.value]


_words.restype = None  # type: ignore[attr-defined] - set as on a function of ctypes
