"""Apple silicon: the counters of IOReport, without sudo, through the package zeus-apple-silicon.

On macOS 27 the counters of several channels stand still (macmon#76, mactop#72). Some chips publish
them in batches, about two seconds apart (all-smi#410).
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ....errors import SensorError, reason

PACKAGE = "zeus_apple_silicon"
OFFERS = ("CPU", "GPU", "Neural Engine", "DRAM")
_FIELDS = {
    "CPU": "cpu_total_mj",
    "GPU": "gpu_mj",
    "Neural Engine": "ane_mj",
    "DRAM": "dram_mj",
}


class Apple:
    """The chip's channels in millijoules since it was switched on."""

    name = "IOReport"
    how = "the chip's own estimate, all programs on it included"

    def __init__(self, load: Callable[[str], Any] = import_module) -> None:
        """Open the package and see which channels this chip tells. Raises SensorError."""
        try:
            self._monitor = load(PACKAGE).AppleEnergyMonitor()
        except ImportError:
            raise SensorError(
                "zeus-apple-silicon is not installed: pip install 'sdxs[energy]'"
            ) from None
        except RuntimeError as error:
            raise SensorError(f"IOReport cannot be asked ({reason(error)})") from None
        told = self._told()
        self.channels = tuple(channel for channel in OFFERS if told[channel] is not None)
        self.silent: Mapping[str, str] = {
            channel: "this chip tells none of it" for channel in OFFERS if told[channel] is None
        }
        if not self.channels:
            raise SensorError("IOReport has none of the known channels on this chip and macOS")

    def read(self) -> dict[str, float]:
        """Return joules by channel. Raises SensorError."""
        told = self._told()
        found = {channel: told[channel] for channel in self.channels}
        return {channel: mj / 1e3 for channel, mj in found.items() if mj is not None}

    def close(self) -> None:
        pass  # the package lets go by itself

    def _told(self) -> dict[str, float | None]:
        try:
            found = self._monitor.get_cumulative_energy()
            return {channel: getattr(found, field) for channel, field in _FIELDS.items()}
        except (RuntimeError, AttributeError) as error:
            raise SensorError(f"IOReport does not answer ({reason(error)})") from None
