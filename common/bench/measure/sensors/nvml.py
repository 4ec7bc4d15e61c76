"""NVML: the energy counter of an NVIDIA GPU, through the driver's own library."""

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from ....errors import SensorError

LIBRARY = "libnvidia-ml.so.1"
OFFERS = ("GPU",)
NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED


class Nvml:
    """The first GPU that CUDA shows. Its counter, or else its power summed up over time."""

    name = "NVML"
    channels: tuple[str, ...] = OFFERS
    silent: Mapping[str, str] = {}

    def __init__(
        self,
        load: Callable[[str], Any] = ctypes.CDLL,
        clock: Callable[[], int] = time.perf_counter_ns,
        visible: str | None = None,
    ) -> None:
        """Open the library and find the GPU. Raises SensorError.

        visible: CUDA_VISIBLE_DEVICES; None: the environment's.
        """
        try:
            self._library = load(LIBRARY)
        except OSError:
            raise SensorError(f"{LIBRARY} is not there: no driver of an NVIDIA GPU") from None
        self._open = False
        self._ask("nvmlInit_v2")
        self._open, self._clock = True, clock
        self._joules, self._last = 0.0, (0, 0.0)
        try:
            shown = os.environ.get("CUDA_VISIBLE_DEVICES", "") if visible is None else visible
            self._device = self._find(shown.split(",")[0].strip())
            self._counts = self._value("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
            if (
                self._counts is None
                and self._value("nvmlDeviceGetPowerUsage", ctypes.c_uint) is None
            ):
                raise SensorError(f"{self._called()} tells neither its energy nor its power")
            by = "counted by the driver" if self._counts is not None else "its power summed up"
            self.how = f"the whole board of {self._called()}, memory included, {by}"
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, float]:
        """Return joules. Raises SensorError."""
        if self._counts is not None:
            counted = self._value("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
            if counted is None:
                raise SensorError("the energy counter is no longer supported")
            return {"GPU": counted / 1e3}
        power = self._value("nvmlDeviceGetPowerUsage", ctypes.c_uint)
        if power is None:
            raise SensorError("power is no longer supported")
        at_ns, watts = self._clock(), power / 1e3
        before_ns, before = self._last
        if before_ns:
            self._joules += (watts + before) / 2 * (at_ns - before_ns) / 1e9
        self._last = at_ns, watts
        return {"GPU": self._joules}

    def close(self) -> None:
        if self._open:
            self._open = False
            self._library.nvmlShutdown()

    def _find(self, shown: str) -> ctypes.c_void_p:
        device = ctypes.c_void_p()
        if shown.startswith("MIG"):
            raise SensorError(f"CUDA_VISIBLE_DEVICES is {shown}: a part of a GPU has no counter")
        if shown and not shown.isdecimal():
            name = ctypes.c_char_p(shown.encode())
            self._ask("nvmlDeviceGetHandleByUUID", name, ctypes.byref(device))
        else:
            index = ctypes.c_uint(int(shown or 0))
            self._ask("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(device))
        return device

    def _called(self) -> str:
        text = ctypes.create_string_buffer(96)
        self._ask("nvmlDeviceGetName", self._device, text, ctypes.c_uint(96))
        return text.value.decode(errors="replace")

    def _value(self, function: str, kind: Any) -> int | None:
        """Ask for a number; None where this GPU does not support it."""
        found = kind()
        code = self._ask(function, self._device, ctypes.byref(found), allowed=NOT_SUPPORTED)
        return None if code == NOT_SUPPORTED else int(found.value)

    def _ask(self, function: str, *arguments: object, allowed: int = 0) -> int:
        try:
            call = getattr(self._library, function)
        except AttributeError:
            if allowed:
                return allowed
            raise SensorError(f"{LIBRARY} has no {function}: the driver is too old") from None
        code = int(call(*arguments))
        if code not in (0, allowed):
            raise SensorError(f"{function}: {self._words(code)}")
        return code

    def _words(self, code: int) -> str:
        try:
            tell = self._library.nvmlErrorString
        except AttributeError:
            return f"error {code}"
        tell.restype = ctypes.c_char_p
        said = tell(ctypes.c_int(code))
        return said.decode(errors="replace") if said else f"error {code}"
