"""RAPL: the energy counters of Intel's and AMD's processors, as Linux shows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....errors import SensorError, reason
from .protocol import Wrapping

FOLDER = Path("/sys/class/powercap")
OFFERS = ("CPU", "DRAM")


@dataclass(frozen=True, slots=True)
class _Zone:
    """A counter in microjoules: of a whole processor, or of the memory beside it."""

    channel: str
    counter: Path
    whole: Wrapping

    def joules(self) -> float:
        return self.whole(_number(self.counter)) / 1e6


class Rapl:
    """The processors' packages, and their DRAM where it is counted apart."""

    name = "RAPL"
    how = "whole processors, all programs on them included"

    def __init__(self, folder: Path = FOLDER) -> None:
        """Find the counters and read them once. Raises SensorError."""
        if not folder.is_dir():
            raise SensorError(
                f"{folder} is not there: this system shows no energy counters, as in most "
                "virtual machines"
            )
        self._zones = [
            _Zone(channel, path / "energy_uj", Wrapping(_most(path)))
            for path in sorted(folder.glob("intel-rapl:*"))
            if (channel := _channel(path))
        ]
        if not self._zones:
            raise SensorError(f"{folder} holds no counter of a processor (intel-rapl:0)")
        self.channels = tuple(dict.fromkeys(zone.channel for zone in self._zones))
        self.silent: Mapping[str, str] = {
            channel: "this processor does not count it apart"
            for channel in OFFERS
            if channel not in self.channels
        }
        self.read()

    def read(self) -> dict[str, float]:
        """Return joules by channel, all processors added up. Raises SensorError."""
        found = dict.fromkeys(self.channels, 0.0)
        for zone in self._zones:
            found[zone.channel] += zone.joules()
        return found

    def close(self) -> None:
        pass  # holds nothing


def _channel(path: Path) -> str:
    """The channel of a zone; '' for a part of a package, and for the whole machine."""
    try:
        name = (path / "name").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return "CPU" if name.startswith("package") else "DRAM" if name == "dram" else ""


def _most(path: Path) -> int:
    return _number(path / "max_energy_range_uj")


def _number(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except PermissionError:
        raise SensorError(
            f"{path} may be read by root alone; sudo chmod a+r {path.parent.parent}/*/energy_uj"
        ) from None
    except (OSError, ValueError) as error:
        raise SensorError(f"{path} cannot be read ({reason(error)})") from None
