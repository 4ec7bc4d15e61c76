"""bench at work: real processes, raw times kept, failures cost only the round they hit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.backend import copies
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.bench.measure import entrants
from sdxs.common.bench.measure.contention import Traffic
from sdxs.common.bench.measure.passes import CAMERA_SHAPE, LentBackend, count_copies
from sdxs.common.bench.measure.requests import Entrant, Load, Run
from sdxs.common.bench.measure.runner import BenchPlan, Runner
from sdxs.common.bench.measure.worker import Worker
from sdxs.common.bench.model.ratios import ratios
from sdxs.common.bench.model.report import Report, read_report
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.coreml_backend.backend import CoreMLBackend
from sdxs.coreml_backend.options import CoreMLOptions
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 64
IDENTITY = "sdxs.common.backend.identity:IdentityBackend"
MLX = "sdxs.mlx_sdxs.backend:MlxBackend"
INSTRUMENT = "sdxs.mlx_sdxs.instrument:MlxInstrument"


def entrant(
    label: str, location: str = IDENTITY, instrument: str = "", isolated: bool = False
) -> Entrant:
    options = MlxOptions(SIZE) if location == MLX else BackendOptions(SIZE)
    return Entrant(label, location, options, instrument, isolated)


def plan(*entrants: Entrant, **changes: object) -> BenchPlan:
    """A short one: two rounds of two short turns and nothing else."""
    base = BenchPlan(
        entrants,
        {},
        rounds=2,
        turns=2,
        turn_s=0.01,
        profile=False,
        together=False,
        memory=False,
        memory_s=0.3,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def run(
    checkpoint: Checkpoint, asked: BenchPlan, say: Callable[[str], None] = lambda line: None
) -> tuple[Report, list[Report]]:
    """The report, and how often it was saved on the way."""
    saved: list[Report] = []
    return Runner(asked, checkpoint, saved.append, say).run(), saved


def test_every_raw_time_is_kept_and_warm_ups_are_apart(tiny_sdxs: Checkpoint) -> None:
    report, saved = run(tiny_sdxs, plan(entrant("a"), entrant("b")))
    assert report.complete and report.ended == "finished" and not report.failures
    for backend in report.backends:
        assert [r.number for r in backend.rounds] == [0, 1]
        for found in backend.rounds:
            assert len(found.warm_ms) == 3 and len(found.frame_ms) == len(found.latency_ms) >= 4
            assert min(found.frame_ms) > 0 and found.load_s > 0
        assert backend.summary is not None
        assert backend.summary.median == pytest.approx(np.median(np.concatenate(backend.frames)))
    assert report.ratios[0].ratio is not None
    assert len(saved) >= 3 and report.work.unet_parameters > 10_000 and report.machine.git


def test_rounds_go_through_processes_of_their_own_unless_kept(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    original = Worker.__init__

    def counting(self: Worker, entrant: Entrant, *others: object) -> None:
        started.append(entrant.label)
        original(self, entrant, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Worker, "__init__", counting)
    run(tiny_sdxs, plan(entrant("a"), entrant("b")))
    assert started == ["a", "b", "a", "b"]
    started.clear()
    report, _ = run(tiny_sdxs, plan(entrant("a"), entrant("b"), fresh=False))
    assert started == ["a", "b"] and [len(b.frames) for b in report.backends] == [2, 2]


def test_turns_alternate_and_change_sides(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    original = Worker.send

    def noting(self: Worker, request: object) -> None:
        if isinstance(request, Run):
            order.append(self.entrant.label)
        original(self, request)  # type: ignore[arg-type]

    monkeypatch.setattr(Worker, "send", noting)
    run(tiny_sdxs, plan(entrant("a"), entrant("b")))
    assert order == ["a", "b", "a", "b", "b", "a", "b", "a"]


def test_a_backend_that_dies_in_a_round_loses_that_round_only(tiny_sdxs: Checkpoint) -> None:
    report, _ = run(
        tiny_sdxs, plan(entrant("good"), entrant("dies", "fake_backends:SuicidalBackend"))
    )
    good, dies = report.backends
    assert len(good.frames) == 2 and all(not r.error for r in good.rounds)
    assert len(dies.rounds) == 2 and all("killed by signal 9" in r.error for r in dies.rounds)
    assert not report.complete and report.ended == "finished"
    assert len(report.failures) == 2 and "dies, round 1: " in report.failures[0]
    assert any(
        "dies failed in 2 of 2 rounds" in line and "the others are kept" in line
        for line in report.warnings
    )


def test_a_kept_backend_that_dies_is_started_again(tiny_sdxs: Checkpoint) -> None:
    """It lives for three frames after its start: its first turn succeeds, its second fails."""
    asked = plan(
        entrant("good"),
        entrant("dies", "fake_backends:SuicidalBackend"),
        fresh=False,
        turns=1,
        rounds=3,
    )
    report, _ = run(tiny_sdxs, asked)
    assert len(report.backends[0].frames) == 3
    assert len(report.backends[1].rounds) == 3 and all(r.error for r in report.backends[1].rounds)


def test_a_backend_that_cannot_load_is_said_so_and_the_others_run(tiny_sdxs: Checkpoint) -> None:
    report, _ = run(
        tiny_sdxs, plan(entrant("fails", "fake_backends:FAILS_ON_LOAD"), entrant("good"))
    )
    fails, good = report.backends
    assert len(good.frames) == 2 and not fails.frames and fails.summary is None
    assert all("cannot do its load" in r.error for r in fails.rounds)
    assert report.ratios[0].ratio is None and "fewer than two rounds" in report.ratios[0].refused


def test_stop_keeps_what_was_measured_and_marks_it(tiny_sdxs: Checkpoint) -> None:
    made: list[Runner] = []
    asked = plan(entrant("a"), entrant("b"), rounds=50)
    saved: list[bool] = []

    def say(line: str) -> None:
        if line.startswith("round 3 "):
            made[0].stop()

    made.append(Runner(asked, tiny_sdxs, lambda report: saved.append(report.complete), say))
    report = made[0].run()
    assert report.ended == "interrupted" and not report.complete and saved[-1] is False
    assert [len(b.frames) for b in report.backends] == [2, 2]
    assert any("interrupted" in line for line in report.warnings)


def test_ctrl_c_writes_the_partial_report(tmp_path: Path) -> None:
    path = tmp_path / "partial.json"
    command = [
        sys.executable,
        "-m",
        "sdxs.cli",
        "bench",
        "--backend",
        "identity",
        "--rounds",
        "500",
        "--json",
        str(path),
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round 3 "):
                break
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    report = read_report(path)
    assert (
        not report.complete
        and report.ended == "interrupted"
        and len(report.backends[0].frames) >= 2
    )
    assert "wrote" in out and "interrupted" in out


def test_memory_copies_stages_and_roofline_of_mlx(tiny_sdxs: Checkpoint) -> None:
    asked = plan(
        entrant("mlx", MLX, INSTRUMENT),
        entrant("identity"),
        memory=True,
        profile=True,
        profile_frames=2,
        counters={"mlx": INSTRUMENT, "coreml": "sdxs.coreml_backend.instrument:CoreMLInstrument"},
    )
    report, _ = run(tiny_sdxs, asked)
    mlx, identity = report.backends
    assert not report.failures
    assert [p.moment for p in mlx.memory] == ["load", "warm-up", "end"]
    assert mlx.memory[0].footprint_bytes > identity.memory[0].footprint_bytes > 10_000_000
    assert mlx.memory[-1].model_bytes > 1_000_000 and mlx.memory_over_time is not None
    assert len(mlx.memory_over_time.frames) == len(mlx.memory_over_time.footprint_bytes) >= 2
    assert list(mlx.stages_ms) == [
        "pre",
        "in",
        "encode",
        "unet",
        "decode",
        "out",
        "post",
        "hosting",
    ]
    assert all(
        len(times) == 2 and min(times) > 0
        for name, times in mlx.stages_ms.items()
        if name != "hosting"
    )
    assert mlx.roofline is not None and [s.stage for s in mlx.roofline.stages] == [
        "encode",
        "unet",
        "decode",
        "frame",
    ]
    assert mlx.roofline.peak.flops_per_s > 1e8 and mlx.roofline.peak.bytes_per_s > 1e8
    for count in report.counts:
        assert count.flops["coreml"] == pytest.approx(count.flops["mlx"], rel=0.02)
    assert set(identity.stages_ms) == {"pre", "post", "hosting"} and identity.roofline is None


def test_contention_measures_its_traffic_and_has_a_control(tiny_sdxs: Checkpoint) -> None:
    report, _ = run(
        tiny_sdxs, plan(entrant("a"), contention=True, contention_s=0.1, sweeps=1, rounds=1)
    )
    curve = report.backends[0].contention
    assert curve is not None and curve.saturation_bytes_per_s > 1e8 and curve.processes >= 1
    assert [(p.wanted_share, p.cached) for p in curve.points] == [
        (0.0, False),
        (0.25, False),
        (0.5, False),
        (0.75, False),
        (1.0, False),
        (1.0, True),
    ]
    rates = [p.traffic_bytes_per_s for p in curve.points]
    assert rates[0] == 0 and rates[5] == 0 and min(rates[1:5]) > 0
    assert all(p.frame_ms for p in curve.points)
    both = [(p.alone_bytes_per_s, p.beside_bytes_per_s) for p in curve.points]
    assert both[0] == (0, 0) and all(alone and beside for alone, beside in both[4:])


def test_traffic_keeps_to_its_rate() -> None:
    with Traffic(1) as traffic:
        assert traffic.saturation(0.5) > 0
        traffic.set_rate(1e8)
        began = time.monotonic()
        while time.monotonic() - began < 1 or traffic.measured_rate() == 0:
            assert time.monotonic() - began < 30, "no block was copied in half a minute"
        # one block of 8 MB may be over, and what is made up for; a busy machine may hold it back,
        # nothing drives it on
        assert traffic.measured_rate() < 1.3e8
        traffic.set_rate(0)
        assert traffic.measured_rate() == 0


@pytest.mark.thorough
def test_two_at_once_against_each_alone(tiny_sdxs: Checkpoint) -> None:
    sleeping = "fake_backends:SleepingBackend"
    asked = plan(entrant("a", MLX), entrant("b", MLX), together=True, contention_s=0.2)
    report, _ = run(tiny_sdxs, asked)
    both = report.together
    assert (
        both is not None
        and both.labels == ["a", "b"]
        and min(*both.alone_fps, *both.together_fps) > 0
    )
    assert min(both.footprint_bytes) > 10_000_000
    floors, _ = run(tiny_sdxs, plan(entrant("a", sleeping), entrant("b"), together=True))
    assert floors.together is None  # who computes nothing is no neighbour


@pytest.mark.thorough
def test_hosting_is_in_the_figure_only_when_asked_for(tiny_sdxs: Checkpoint) -> None:
    report, _ = run(tiny_sdxs, plan(entrant("plain"), entrant("isolated", isolated=True)))
    plain, isolated = report.backends
    assert isolated.isolated and plain.summary is not None and isolated.summary is not None
    assert isolated.summary.median > 2 * plain.summary.median


def test_frames_in_flight_count_by_what_each_takes_of_the_stream(tiny_sdxs: Checkpoint) -> None:
    """Three stages of 20 ms: a frame every 20 ms, each 60 ms old. Bunches must not look quick."""
    report, _ = run(tiny_sdxs, plan(entrant("staged", "fake_backends:QuickStages"), turn_s=0.3))
    staged = report.backends[0]
    assert staged.summary is not None and staged.latency is not None
    assert staged.summary.median >= 19.5 and staged.latency.median >= 58
    assert staged.latency.median > 2 * staged.summary.median


@pytest.mark.thorough
def test_another_precision_refuses_a_ratio(tiny_sdxs: Checkpoint) -> None:
    report, _ = run(tiny_sdxs, plan(entrant("a"), entrant("b")))
    report.backends[0].describe["dtype"], report.backends[1].describe["dtype"] = (
        "float16",
        "float32",
    )
    assert "a computes in float16, b in float32" in ratios(report.backends)[0].refused
    report.backends[1].describe["dtype"] = "uint8"
    # The floor is shown, but nobody wants to know how often it fits into a frame.
    assert ratios(report.backends) == []


def test_errors_of_the_backend_come_out_of_a_worker_as_they_were(tiny_sdxs: Checkpoint) -> None:
    worker = Worker(
        entrant("fails", "fake_backends:FAILS_ON_LOAD"),
        tiny_sdxs,
        np.zeros((1, 77, 64), np.float32),
        0,
    )
    try:
        with pytest.raises(BackendError, match="cannot do its load"):
            worker.ask(Load())
    finally:
        worker.end()


# Copies against a count by hand


def by_hand(size: int) -> dict[str, int]:
    """A 1280 x 720 camera picture, cropped to 720 x 720 without a copy, goes into a video file."""
    square = size * size * 3
    averaged = (720 // (720 // size)) ** 2 * 3  # over whole pixels, before it is interpolated
    return {
        "source": 1280 * 720 * 3,
        "resize": averaged + square,
        "to RGB": square,
        "similarity": square,
        "last picture": square,
        "video": square,
    }


def test_copies_of_the_identity_backend_equal_a_count_by_hand() -> None:
    assert CAMERA_SHAPE == (720, 1280, 3)
    backend = IdentityBackend(None, BackendOptions(SIZE))
    backend.load()
    counted = count_copies(backend, SIZE, np.zeros((1, 77, 64), np.float32), 0, 7)
    assert counted == by_hand(SIZE) | {"backend out": SIZE * SIZE * 3}


def test_copies_of_mlx_equal_a_count_by_hand(tiny_sdxs: Checkpoint) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE))
    backend.load()
    try:
        counted = count_copies(backend, SIZE, np.zeros((1, 77, 64), np.float32), 0, 3)
    finally:
        backend.close()
    assert counted == by_hand(SIZE) | {
        "backend in": SIZE * SIZE * 3,
        "backend out": SIZE * SIZE * 3,
    }


def test_copies_of_core_ml_equal_a_count_by_hand(tiny_sdxs: Checkpoint) -> None:
    """Through the interpreter: Core ML's bridge copies are unseen, our own copies are the same."""
    backend = CoreMLBackend(tiny_sdxs, CoreMLOptions(SIZE, runtime="reference"))
    backend.load()
    try:
        counted = count_copies(backend, SIZE, np.zeros((1, 77, 64), np.float32), 0, 2)
    finally:
        backend.close()
    numbers, latents = 3 * SIZE * SIZE, 4 * (SIZE // 8) ** 2
    expected = {
        "backend in": 4 * numbers,
        "previous x0": 4 * latents,
        "to 8 bits": numbers,
        "backend out": numbers,
    }
    assert counted == by_hand(SIZE) | expected


def test_a_hosted_backend_copies_there_and_back() -> None:
    backend = HostedBackend("identity", IDENTITY, None, BackendOptions(SIZE))
    backend.load()
    try:
        counted = count_copies(backend, SIZE, np.zeros((1, 77, 64), np.float32), 0, 3)
    finally:
        backend.close()
    assert counted == by_hand(SIZE) | {
        "to its process": SIZE * SIZE * 3,
        "from its process": SIZE * SIZE * 3,
    }


def test_a_lent_backend_hands_its_errors_to_the_caller() -> None:
    backend = IdentityBackend(None, BackendOptions(SIZE))
    lent = LentBackend(backend)
    with pytest.raises(BackendError, match="without a submitted frame"):
        lent.serve_until(lambda: lent.collect(np.empty((SIZE, SIZE, 3), np.uint8)))
    copies.take()
    lent.serve_until(lambda: lent.set_params(FrameParams()))
    assert copies.take() == {}


# The command


def test_the_command_measures_and_writes(tmp_path: Path, command: Command) -> None:
    path, page = tmp_path / "r.json", tmp_path / "r.html"
    two = ("--backend", "identity", "--backend", "identity")
    done = command("bench", "--quick", "--rounds", 2, *two, "--json", path, "--html", page)
    assert done.code == 0, done.err
    report = read_report(path)
    assert [b.label for b in report.backends] == [
        "identity",
        "identity (2)",
    ] and report.work.model == "demo"
    assert "identity takes" in done.out and page.read_text().startswith("<!doctype html>")
    assert command("bench", "--show", path).out.splitlines()[0] in done.out
    assert json.loads(path.read_text())["settings"]["rounds"] == 2


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is a speed there")
@pytest.mark.parametrize("spec", ["coreml", "coreml:runtime=reference"])
def test_the_interpreter_is_never_a_speed(spec: str, command: Command) -> None:
    done = command("bench", "--backend", spec)
    assert done.code == 2 and ("no speed" in done.err or "needs macOS" in done.err)


@pytest.mark.parametrize(
    "arguments",
    [("--backend", "fast"), ("--size", "100"), ("--rounds", "0"), ("--model", "nothing")],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    arguments: tuple[str, str], command: Command
) -> None:
    assert command("bench", *arguments).code == 2


@pytest.mark.parametrize("name", ["identity", "mlx"])
def test_a_setting_that_a_backend_does_not_know_is_refused_by_name(
    name: str, tmp_path: Path, command: Command
) -> None:
    """Bug: MLX and identity ignored unknown settings; later the refusal came after measuring."""
    spec = f"{name}:colour=red"
    done = command(
        "bench",
        "--quick",
        "--rounds",
        1,
        "--backend",
        "identity",
        "--backend",
        spec,
        "--json",
        tmp_path / "r.json",
    )
    assert done.code == 2 and f"{name}: unknown setting 'colour'" in done.err
    assert not (tmp_path / "r.json").exists()


def test_nothing_to_measure_is_refused(tiny_sdxs: Checkpoint) -> None:
    with pytest.raises(UsageError, match="at least one"):
        Runner(BenchPlan((), {}), tiny_sdxs)


def test_no_worker_outlives_a_run(tiny_sdxs: Checkpoint) -> None:
    run(tiny_sdxs, plan(entrant("a"), fresh=False))
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():
        names = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children.read_text().split()]
        assert not [name for name in names if "spawn_main" in name]


def test_backends_with_programs_are_measured_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Mac the ratio reads how Core ML compares with the others."""
    assert sys.platform == "darwin" or entrants.default_names() == ["mlx", "identity"]
    everywhere = {
        name: replace(spec, runs_here=lambda: True) for name, spec in entrants.specs().items()
    }
    monkeypatch.setattr(entrants, "specs", lambda: everywhere)
    assert entrants.default_names() == ["coreml", "coreai", "mlx", "identity"]
