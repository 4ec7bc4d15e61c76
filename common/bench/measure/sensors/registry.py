"""Which sensors this system has."""

import sys
from collections.abc import Callable, Mapping

from ....errors import SensorError
from ...model.energy import CHANNELS
from . import apple, nvml, rapl
from .protocol import Sensor

Source = tuple[Callable[[], Sensor], tuple[str, ...]]
APPLE: tuple[Source, ...] = ((apple.Apple, apple.OFFERS),)
LINUX: tuple[Source, ...] = ((rapl.Rapl, rapl.OFFERS), (nvml.Nvml, nvml.OFFERS))


def open_sensors(sources: tuple[Source, ...] | None = None) -> tuple[list[Sensor], dict[str, str]]:
    """Open what this system has; return it, and the reason for every channel that nothing reads.

    sources: each sensor's maker, with the channels that it offers; None: those of this system.
    """
    if sources is None:
        sources = APPLE if sys.platform == "darwin" else LINUX
    found: list[Sensor] = []
    reasons: dict[str, str] = {}
    for make, offers in sources:
        try:
            sensor = make()
        except SensorError as error:
            reasons.update(dict.fromkeys(offers, str(error)))
            continue
        found.append(sensor)
        reasons.update(sensor.silent)
    read = {channel for sensor in found for channel in sensor.channels}
    return found, _of_others(read, reasons)


def _of_others(read: set[str], reasons: Mapping[str, str]) -> dict[str, str]:
    return {
        channel: reasons.get(channel, "this kind of machine has no sensor of it")
        for channel in CHANNELS
        if channel not in read
    }
