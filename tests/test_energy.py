"""Energy: known power gives the known joules, and what is no measurement is never 0 J."""

import io
import math
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import bench_samples
import numpy as np
import pytest
from fake_sensors import FakeNvml, FakeSensor
from rich.console import Console

from command import Command
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process import child
from sdxs.common.backend.protocol import StageTimes
from sdxs.common.bench.measure import energy as energy_pass
from sdxs.common.bench.measure.energy import Spend, Spent, Watcher, energy
from sdxs.common.bench.measure.requests import Bench, Entrant
from sdxs.common.bench.measure.runner import BenchPlan, Runner
from sdxs.common.bench.measure.sensors import registry
from sdxs.common.bench.measure.sensors.apple import Apple
from sdxs.common.bench.measure.sensors.nvml import Nvml
from sdxs.common.bench.measure.sensors.protocol import Wrapping
from sdxs.common.bench.measure.sensors.rapl import Rapl
from sdxs.common.bench.model.energy import (
    CHANNELS,
    Energy,
    EnergyChannel,
    Reading,
    Window,
    channel_of,
    mean_watts,
)
from sdxs.common.bench.model.report import Report
from sdxs.common.bench.show import html, table
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import SensorError

SECONDS, STEP_S = 10, 0.25


def window(joules: Callable[[float], float], lost_from: float = math.inf) -> Window:
    """Ten seconds of readings, four a second, of a counter over the seconds since it began."""
    times = [STEP_S * n for n in range(int(SECONDS / STEP_S) + 1)]
    return Window(
        0,
        SECONDS * 10**9,
        [
            Reading(int(at * 1e9), {}, "unplugged")
            if at >= lost_from
            else Reading(int(at * 1e9), {"CPU": joules(at)})
            for at in times
        ],
    )


def test_a_counter_of_known_power_gives_exactly_the_known_joules_of_a_frame() -> None:
    idle, busy = window(lambda at: 7 + 5 * at), window(lambda at: 99 + 25 * at)
    found = channel_of("CPU", "fake", "made up", idle, busy, 500)
    assert (found.watts, found.idle_watts) == (25, 5)
    assert (found.joules, found.net_joules) == (25 * SECONDS / 500, 20 * SECONDS / 500)
    assert not found.reason


def test_a_counter_that_is_published_every_two_seconds_gives_the_same_power() -> None:
    """From the window's first reading to its last, 30 W would come out as 24."""
    found, why = mean_watts(window(lambda at: 30 * 2.25 * (at // 2.25)), "CPU")
    assert found == pytest.approx(30) and not why


@pytest.mark.parametrize(
    ("joules", "why"),
    [
        (lambda at: 0, "it reads 0 throughout 10.0 s"),
        (lambda at: 4321.5, "stalled: it stood still throughout 10.0 s"),
        (lambda at: 10 * min(at, 4), "stalled: it stood still for 6.0 of 10.0 s"),
        (lambda at: 10 * max(at, 6), "stalled: it stood still for 6.2 of 10.0 s"),
        (lambda at: 10 * (at // 4), "it moved 2 times in 10.0 s: too few for a power"),
        (lambda at: 100 - at, "it ran backwards, from 100 to 99.75 J"),
        (lambda at: at if at < 5 else at - 5, "it ran backwards, from 4.75 to 0 J"),
        (lambda at: at + (2**64 / 1e3 if at > 3 else 0), "it rose by 1.84467e+16 J within 0.25 s"),
        (lambda at: math.nan if at == 3 else at, "it reads nan J, which is no energy"),
        (lambda at: math.inf, "it reads inf J, which is no energy"),
        (lambda at: -5 + at, "it reads -5 J, which is no energy"),
    ],
    ids=[
        "zero",
        "stalled",
        "stalled later on",
        "stalled at first",
        "too seldom",
        "backwards",
        "begins again",
        "overflow",
        "NaN",
        "infinite",
        "negative",
    ],
)
def test_what_is_no_measurement_has_a_reason_and_no_joules(
    joules: Callable[[float], float], why: str
) -> None:
    found = channel_of("CPU", "fake", "made up", window(lambda at: at), window(joules), 100)
    assert found.reason.startswith(why)
    assert found.joules is found.net_joules is found.watts is None


def test_a_sensor_that_vanishes_says_when_and_why() -> None:
    busy = window(lambda at: at, lost_from=6)
    found = channel_of("CPU", "fake", "made up", busy, busy, 100)
    assert found.joules is None and found.reason == "lost after 6.0 s: unplugged"
    assert mean_watts(busy, "GPU")[1] == "lost after 0.0 s: it tells none any more"
    assert "was read 1 times" in mean_watts(Window(0, 10**9, busy.readings[:1]), "CPU")[1]


def test_idle_that_is_unknown_or_no_less_leaves_the_whole_energy() -> None:
    busy = window(lambda at: 20 * at)
    unknown = channel_of("CPU", "fake", "made up", window(lambda at: 3), busy, 100)
    assert unknown.joules == 2 and unknown.net_joules is None and unknown.idle_watts is None
    assert unknown.reason.startswith("idle: stalled")
    louder = channel_of("CPU", "fake", "made up", window(lambda at: 21 * at), busy, 100)
    assert louder.joules == 2 and louder.net_joules is None and louder.idle_watts == 21
    assert louder.reason == "drew no more than while idle"


def test_a_counter_that_wraps_goes_on() -> None:
    whole = Wrapping(999)
    assert [whole(value) for value in (990, 999, 4, 4, 3)] == [990, 999, 1004, 1004, 2003]
    assert [Wrapping(0)(value) for value in (5, 4)] == [5, 4]


def zones(folder: Path, **counters: int) -> Path:
    """A powercap folder of one processor; counters by name of zone, in microjoules."""
    for number, (name, count) in enumerate(counters.items()):
        zone = folder / f"intel-rapl:0{f':{number - 1}' if number else ''}"
        zone.mkdir(parents=True, exist_ok=True)
        (zone / "name").write_text(f"{name.replace('_', '-')}\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
        (zone / "energy_uj").write_text(f"{count}\n")
    return folder


def test_rapl_counts_packages_and_dram_but_no_parts_twice(tmp_path: Path) -> None:
    folder = zones(tmp_path, package_0=262143328849, core=5, dram=3_000_000, psys=9)
    other = folder / "intel-rapl:1"
    (folder / "intel-rapl:0").rename(other)
    zones(tmp_path, package_0=1_000_000)
    sensor = Rapl(folder)
    assert sensor.channels == ("CPU", "DRAM") and not sensor.silent
    first = sensor.read()
    assert first == {"CPU": pytest.approx(262144.32884900), "DRAM": 3.0}
    (other / "energy_uj").write_text("1999999\n")  # wrapped
    assert sensor.read()["CPU"] - first["CPU"] == pytest.approx(2.000001)


def test_rapl_that_is_not_there_or_not_ours_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SensorError, match="nowhere is not there: this system shows no energy"):
        Rapl(tmp_path / "nowhere")
    with pytest.raises(SensorError, match="holds no counter of a processor"):
        Rapl(zones(tmp_path / "others", psys=1))
    folder = zones(tmp_path / "ours", package_0=1)
    assert Rapl(folder).silent == {"DRAM": "this processor does not count it apart"}
    (folder / "intel-rapl:0" / "energy_uj").write_text("many\n")
    with pytest.raises(SensorError, match=r"energy_uj cannot be read \(invalid literal"):
        Rapl(folder)
    original = Path.read_text

    def refuse(self: Path, *others: object, **named: object) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return original(self, *others, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(SensorError, match=r"may be read by root alone; sudo chmod a\+r"):
        Rapl(folder)


def test_nvml_reads_the_counter_of_the_gpu_that_cuda_shows() -> None:
    library = FakeNvml(energy=iter([1_000, 2_500]).__next__, power=300_000)
    sensor = Nvml(lambda name: library, visible="3,1")
    assert library.indices == [3]
    assert sensor.read() == {"GPU": 2.5}
    assert "Made-up 100" in sensor.how and "counted by the driver" in sensor.how
    sensor.close()
    sensor.close()
    assert library.open == 0
    by_name = FakeNvml(energy=lambda: 7)
    Nvml(lambda name: by_name, visible="GPU-8a7b")
    assert by_name.indices == [b"GPU-8a7b"]


def test_nvml_without_a_counter_sums_the_power_up_and_says_so() -> None:
    clock = iter([10**9, 2 * 10**9, 5 * 10**9]).__next__
    sensor = Nvml(lambda name: FakeNvml(energy=3, power=40_000), clock, visible="")
    assert [sensor.read()["GPU"] for _ in range(3)] == [0, 40, 160]
    assert "its power summed up" in sensor.how


@pytest.mark.parametrize(
    ("library", "visible", "said"),
    [
        (FakeNvml(energy=3), "", "tells neither its energy nor its power"),
        (FakeNvml(energy=15), "", "nvmlDeviceGetTotalEnergyConsumption: GPU is lost"),
        (FakeNvml(energy=lambda: 1), "GPU-unknown", "nvmlDeviceGetHandleByUUID: Not Found"),
        (FakeNvml(energy=lambda: 1), "MIG-1", "a part of a GPU has no counter"),
        (SimpleNamespace(), "", "has no nvmlInit_v2: the driver is too old"),
    ],
)
def test_nvml_that_is_of_no_use_says_why(library: object, visible: str, said: str) -> None:
    with pytest.raises(SensorError, match=said):
        Nvml(lambda name: library, visible=visible)
    assert getattr(library, "open", 0) == 0


def test_no_driver_and_no_package_are_said_with_the_remedy() -> None:
    def no_library(name: str) -> object:
        raise OSError(name)

    def no_package(name: str) -> object:
        raise ModuleNotFoundError(name)

    with pytest.raises(SensorError, match="no driver of an NVIDIA GPU"):
        Nvml(no_library)
    with pytest.raises(SensorError, match=re.escape("pip install 'sdxs[energy]'")):
        Apple(no_package)


class FakeMonitor:
    """zeus_apple_silicon's monitor, whose chip tells no DRAM; a failing one where told so."""

    failing = False

    def get_cumulative_energy(self) -> object:
        if self.failing:
            raise RuntimeError("no sample")
        return SimpleNamespace(cpu_total_mj=1500, gpu_mj=250, ane_mj=0, dram_mj=None)


def test_apples_channels_are_joules_and_a_missing_one_is_no_zero() -> None:
    sensor = Apple(lambda name: SimpleNamespace(AppleEnergyMonitor=FakeMonitor))
    assert sensor.read() == {"CPU": 1.5, "GPU": 0.25, "Neural Engine": 0.0}
    assert sensor.silent == {"DRAM": "this chip tells none of it"}
    sensor._monitor.failing = True
    with pytest.raises(SensorError, match=r"IOReport does not answer \(no sample\)"):
        sensor.read()


def test_every_channel_is_read_or_has_a_reason() -> None:
    def refusing() -> FakeSensor:
        raise SensorError("root alone")

    sensors, reasons = registry.open_sensors(
        ((refusing, ("CPU", "DRAM")), (lambda: FakeSensor(GPU=9.0), ("GPU",)))
    )
    assert [sensor.channels for sensor in sensors] == [("GPU",)]
    assert reasons == {
        "CPU": "root alone",
        "Neural Engine": "this kind of machine has no sensor of it",
        "DRAM": "root alone",
    }
    found = energy(
        sensors, reasons, [window(lambda at: at)], [window(lambda at: at)], Spent(9, 0, 9)
    )
    assert sorted(each.channel for each in found.channels) == sorted(CHANNELS)


def test_a_failed_reading_is_kept_as_one() -> None:
    watcher = Watcher([FakeSensor(lost_after=1, CPU=1.0)], clock=iter([5, 6, 7]).__next__)
    watcher.look()
    watcher.look()
    (found,) = watcher.windows(0, 9)
    assert [reading.lost for reading in found.readings] == ["", "the driver was unloaded"]


class Piped(IdentityBackend):
    """Three frames in flight; notes when each was submitted and collected."""

    depth = 3

    def __init__(self, checkpoint: object, options: BackendOptions) -> None:
        super().__init__(checkpoint, options)
        self.submitted: list[int] = []
        self.collected: list[int] = []

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        self.submitted.append(time.perf_counter_ns())
        super().submit(frame, edges)

    def collect(self, out: np.ndarray) -> StageTimes:
        times = super().collect(out)
        self.collected.append(time.perf_counter_ns())
        return times


def test_frames_of_a_window_are_those_that_began_and_ended_in_it(tiny_sdxs: Checkpoint) -> None:
    entrant = Entrant("a", "nowhere:Piped", BackendOptions(64))
    backend = Piped(tiny_sdxs, BackendOptions(64))
    bench = Bench(entrant, tiny_sdxs, np.zeros((1, 77, 8), np.float32), 0, backend)
    bench.paint()
    spent = Spend(0.01).do(bench)
    began = [at for at in backend.submitted if at >= spent.began_ns]
    assert len(began) == spent.frames > 5
    assert len(backend.submitted) == len(backend.collected) > spent.frames + 3
    assert backend.collected[-1] <= spent.ended_ns


def run(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, sensors: list[FakeSensor]
) -> Report:
    """A run of identity with a short window of energy, read forty times a second."""
    reasons = {"GPU": "no driver"}
    monkeypatch.setattr(energy_pass, "open_sensors", lambda: (sensors, reasons))
    if sensors:  # the reading's own time: no pause between the two can make it inexact
        watcher = partial(Watcher, clock=lambda: sensors[0].at_ns)
        monkeypatch.setattr(energy_pass, "Watcher", watcher)
    monkeypatch.setattr(energy_pass, "SETTLE_S", 0.0)
    monkeypatch.setattr(energy_pass, "READ_EVERY_S", 0.02)
    monkeypatch.setattr(child, "LOOK_S", 0.02)
    location = "sdxs.common.backend.identity:IdentityBackend"
    plan = BenchPlan(
        (Entrant("a", location, BackendOptions(64)),),
        {},
        rounds=1,
        turns=1,
        turn_s=0.01,
        profile=False,
        together=False,
        memory=False,
        energy=True,
        energy_s=0.6,
    )
    return Runner(plan, checkpoint).run()


def test_a_run_measures_the_known_power_of_its_own_window(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = FakeSensor(CPU=12.5)
    report = run(tiny_sdxs, monkeypatch, [sensor])
    assert report.complete and not report.failures and sensor.closed
    found = report.backends[0].energy
    assert found and found.seconds > 0.5 and found.idle_s > 0.5 and found.frames > 2
    cpu, gpu = found.channels
    assert cpu.watts == pytest.approx(12.5) and cpu.idle_watts == pytest.approx(12.5)
    assert cpu.joules == pytest.approx(12.5 * found.seconds / found.frames, rel=1e-5)
    assert gpu == EnergyChannel("GPU", "", "", reason="no driver")


def test_a_sensor_that_vanishes_in_a_run_ends_no_run(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(tiny_sdxs, monkeypatch, [FakeSensor(lost_after=2, CPU=12.5)])
    assert report.complete and report.backends[0].frames
    found = report.backends[0].energy
    assert found and found.channels[0].joules is None
    assert re.fullmatch(r"lost after \d\.\d s: the driver was unloaded", found.channels[0].reason)


def test_without_a_sensor_nothing_is_rendered_and_the_reason_is_told(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(tiny_sdxs, monkeypatch, []).backends[0].energy
    assert found == Energy(0.0, 0, 0.0, [EnergyChannel("GPU", "", "", reason="no driver")])


def shown(report: Report) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.render(report))
    return console.export_text()


def test_tables_show_both_energies_and_never_a_zero_for_what_was_not_read() -> None:
    report = bench_samples.report()
    report.backends[0].energy = Energy(
        10.2,
        400,
        10.0,
        [
            EnergyChannel("GPU", "NVML", "the whole board", 300.0, 75.0, 7.65, 5.74),
            EnergyChannel("CPU", "", "", reason="root alone"),
        ],
    )
    for text in (shown(report), html.render(report)):
        assert "7.65" in text and "5.74" in text and "0.131" in text
        assert "energy, CPU: not available: root alone" in text
        assert "energy by NVML: the whole board" in text
    report.backends[0].energy = None
    assert "energy" not in shown(report)


def test_the_command_refuses_windows_that_are_too_short(command: Command) -> None:
    done = command("bench", "--energy", "--energy-s", "5")
    assert done.code == 2 and "10" in done.err
