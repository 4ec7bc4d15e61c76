"""The pass of energy: each backend idle, then rendering without a pause, sensors read meanwhile."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import SensorError
from ..model.energy import Energy, EnergyChannel, Reading, Window, channel_of
from .crew import Failed
from .requests import Bench, Request, Run
from .run_state import RunState
from .sensors.protocol import Sensor
from .sensors.registry import open_sensors

READ_EVERY_S = 0.25
SETTLE_S = 2.0  # after a process has ended, before the machine counts as idle


@dataclass(frozen=True, slots=True)
class Spent:
    """Frames of a window, and the window on the clock that all processes share."""

    frames: int
    began_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Spend(Request[Spent]):
    """Render for `seconds` without a pause."""

    seconds: float

    def do(self, bench: Bench) -> Spent:
        depth = bench.loaded().depth
        Run(0, warm=depth + 2).do(bench)
        began_ns = time.perf_counter_ns()
        frames = Run(self.seconds, warm=0).do(bench).frames + depth - 1
        return Spent(frames, began_ns, time.perf_counter_ns())


class Watcher:
    """Reads sensors when it is told to; a sensor that fails is a reading, too."""

    def __init__(
        self, sensors: Sequence[Sensor], clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._sensors, self._clock = sensors, clock
        self._readings: list[list[Reading]] = []
        self.begin()

    def begin(self) -> None:
        """Forget what was read."""
        self._readings = [[] for _ in self._sensors]

    def look(self) -> None:
        """Read every sensor once."""
        for sensor, readings in zip(self._sensors, self._readings, strict=True):
            try:
                joules = sensor.read()
            except SensorError as error:
                readings.append(Reading(self._clock(), {}, str(error)))
            else:
                readings.append(Reading(self._clock(), joules))

    def windows(self, began_ns: int, ended_ns: int) -> list[Window]:
        """Return what was read, by sensor."""
        return [Window(began_ns, ended_ns, tuple(readings)) for readings in self._readings]


def measure_energy(run: RunState, pause: Callable[[float], None] = time.sleep) -> None:
    """Measure the energy of every backend's frames, each after the idle machine."""
    sensors, reasons = open_sensors()
    watcher = Watcher(sensors)
    try:
        for entrant in run.able():
            if not sensors:
                run.of[entrant.label].energy = energy((), reasons, (), (), Spent(0, 0, 0))
                continue
            run.say(f"{entrant.label}: energy, idle for {run.plan.energy_s:.0f} s first")
            idle = _idle(run, watcher, pause)
            with run.crew.of([entrant], "the energy pass") as crew:
                for worker, _ in crew.values():
                    run.say(f"{entrant.label}: energy, {run.plan.energy_s:.0f} s of frames")
                    watcher.begin()
                    run.meanwhile = watcher.look
                    spent = run.crew.ask(worker, Spend(run.plan.energy_s), "the energy pass")
                    run.meanwhile = None
                    if not isinstance(spent, Failed):
                        busy = watcher.windows(spent.began_ns, spent.ended_ns)
                        found = energy(sensors, reasons, idle, busy, spent)
                        run.of[entrant.label].energy = found
            run.save_now()
    finally:
        run.meanwhile = None
        for sensor in sensors:
            sensor.close()


def energy(
    sensors: Sequence[Sensor],
    reasons: Mapping[str, str],
    idle: Sequence[Window],
    busy: Sequence[Window],
    spent: Spent,
) -> Energy:
    """Return the energy of a frame by channel; windows by sensor, `reasons` by other channels."""
    channels = [
        channel_of(channel, sensor.name, sensor.how, before, during, spent.frames)
        for sensor, before, during in zip(sensors, idle, busy, strict=True)
        for channel in sensor.channels
    ]
    channels += [EnergyChannel(name, "", "", reason=why) for name, why in reasons.items()]
    idle_s = round(idle[0].seconds, 3) if idle else 0.0
    seconds = round((spent.ended_ns - spent.began_ns) / 1e9, 6)
    return Energy(seconds, spent.frames, idle_s, channels)


def _idle(run: RunState, watcher: Watcher, pause: Callable[[float], None]) -> list[Window]:
    """Let the machine settle, then read the sensors while nothing is rendered."""
    _wait(run, SETTLE_S, pause)
    watcher.begin()
    began_ns = time.perf_counter_ns()
    _wait(run, run.plan.energy_s, pause, watcher.look)
    return watcher.windows(began_ns, time.perf_counter_ns())


def _wait(
    run: RunState,
    seconds: float,
    pause: Callable[[float], None],
    look: Callable[[], None] = lambda: None,
) -> None:
    until = time.perf_counter() + seconds
    while (left := until - time.perf_counter()) > 0:
        run.watch()
        look()
        pause(min(READ_EVERY_S, left))
