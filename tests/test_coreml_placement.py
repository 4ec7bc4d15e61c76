"""Stages on their own compute units render what one program does, and a death is named."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.process.shared_frames import Plane
from sdxs.common.backend.protocol import Backend, FrameParams, MemoryUse, StageTimes
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.picture.temporal import psnr
from sdxs.coreml_backend.backend import CoreMLBackend, Section, split
from sdxs.coreml_backend.options import CoreMLOptions, parse_placement

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"
SIZE = 64
NE_GPU_NE = "encode=ne,unet=gpu,decode=ne"
COREML = "sdxs.coreml_backend.backend:CoreMLBackend"
PATIENCE_S = 20.0

# what is around the programs is tested here: each is built once a run
pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(scope="module")
def shared_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(autouse=True)
def own_cache(shared_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Build into this module's own folder; shared memory is empty after each test."""
    monkeypatch.setenv("SDXS_WEIGHTS", str(shared_weights))
    before = shared_memory_names()
    yield
    until(lambda: shared_memory_names() <= before, "shared memory to be gone")


def shared_memory_names() -> set[str]:
    return {
        path.name
        for path in Path("/dev/shm").glob("*")
        if path.name.startswith(("sdxs", "psm", "pym"))
    }


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if Path("/proc").exists()
        else True
    )


def options(placement: str = "", size: int = SIZE) -> CoreMLOptions:
    """Options of one form of the attention, whatever the units: programs of others differ."""
    placed = parse_placement(placement)
    return CoreMLOptions(size, runtime="reference", attention="matmul", placement=placed)


def picture(seed: int) -> np.ndarray:
    """A smooth random picture, uint8 (64, 64, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    return np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)


def session(backend: Backend, width: int) -> list[np.ndarray]:
    """Render seven frames at the backend's depth; prompt and feedback change on the way."""
    generator = np.random.default_rng(5)
    prompts = [generator.standard_normal((1, 77, width), dtype=np.float32) for _ in range(2)]
    pictures: list[np.ndarray] = []
    in_flight = 0

    def collect() -> None:
        out = np.empty((SIZE, SIZE, 3), np.uint8)
        assert backend.collect(out).total_ns > 0
        pictures.append(out)

    for number in range(7):
        if number in (0, 4):
            backend.set_conditioning(prompts[number // 4])
            backend.set_params(FrameParams(seed=number, feedback=0.6 if number else 0.3))
        backend.submit(picture(number))
        in_flight += 1
        if in_flight == backend.depth:
            collect()
            in_flight -= 1
    for _ in range(in_flight):
        collect()
    return pictures


@pytest.fixture(scope="module")
def expected(demo: Checkpoint, shared_weights: Path) -> list[np.ndarray]:
    """The session by the one whole-frame program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDXS_WEIGHTS", str(shared_weights))
        whole = CoreMLBackend(demo, options())
        whole.load()
        pictures = session(whole, demo.unet.cross_attention_dim)
        whole.close()
    assert not np.array_equal(pictures[5], pictures[6])
    return pictures


@pytest.mark.parametrize(
    ("placement", "depth"),
    [
        (NE_GPU_NE, 3),
        pytest.param("encode=ne,unet=gpu,decode=gpu", 3, marks=pytest.mark.thorough),
        pytest.param("encode=cpu,unet=gpu,decode=ne", 3, marks=pytest.mark.thorough),
        ("encode=ne,unet=ne,decode=ne", 1),
    ],
)
def test_a_pipeline_renders_exactly_what_one_program_does(
    demo: Checkpoint, expected: list[np.ndarray], placement: str, depth: int
) -> None:
    backend = CoreMLBackend(demo, options(placement))
    assert backend.depth == depth
    backend.load()
    try:
        for ours, theirs in zip(
            session(backend, demo.unet.cross_attention_dim), expected, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    finally:
        backend.close()


def test_the_forms_of_the_units_render_the_same_within_a_rounding(
    demo: Checkpoint, expected: list[np.ndarray]
) -> None:
    """The Neural Engine's programs have pictures in float16; seven frames, with feedback."""
    backend = CoreMLBackend(demo, replace(options(NE_GPU_NE), attention=None))
    backend.load()
    try:
        for ours, theirs in zip(
            session(backend, demo.unet.cross_attention_dim), expected, strict=True
        ):
            assert psnr(ours, theirs) > 45
    finally:
        backend.close()


def test_hosted_it_is_one_backend_of_depth_three_over_two_processes(
    demo: Checkpoint, expected: list[np.ndarray]
) -> None:
    hosted = HostedBackend("coreml", COREML, demo, options(NE_GPU_NE))
    hosted.load()
    facts = hosted.describe().as_dict()
    pids = [int(facts["process"]), int(facts["process of unet"])]
    try:
        assert hosted.depth == 3 and len({*pids, os.getpid()}) == 3
        assert facts["placement"] == NE_GPU_NE and "NOT Core ML" in facts["runtime"]
        for ours, theirs in zip(
            session(hosted, demo.unet.cross_attention_dim), expected, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert hosted.memory().model_bytes > demo.unet_weights.stat().st_size / 4, (
            "three programs hold the demo's weights"
        )
    finally:
        hosted.close()
    until(lambda: not any(map(is_running, pids)), "both processes to end")


@pytest.mark.parametrize(
    ("victim", "busy"),
    [
        ("process", True),
        ("process of unet", False),
        pytest.param("process", False, marks=pytest.mark.thorough),
        pytest.param("process of unet", True, marks=pytest.mark.thorough),
    ],
)
def test_a_killed_child_is_one_clear_line_and_leaves_no_orphan(
    demo: Checkpoint, victim: str, busy: bool
) -> None:
    hosted = HostedBackend("coreml", COREML, demo, options(NE_GPU_NE))
    hosted.load()
    facts = hosted.describe().as_dict()
    pids = [int(facts["process"]), int(facts["process of unet"])]
    if busy:
        for number in range(3):
            hosted.submit(picture(number))
    os.kill(int(facts[victim]), signal.SIGKILL)
    named = "coreml unet on gpu" if victim == "process of unet" else "coreml"
    with pytest.raises(
        BackendError, match=rf"^{named}: the backend's process was killed by signal 9 \(SIGKILL\)"
    ) as caught:
        if busy:
            hosted.collect(np.empty((SIZE, SIZE, 3), np.uint8))
        hosted.memory()  # how the loop asks for a sign of life
        until(lambda: not is_running(int(facts[victim])), "the kill")
        hosted.memory()
    assert "\n" not in str(caught.value)
    hosted.close()
    until(lambda: not any(map(is_running, pids)), "both processes to end")


class Recorder:
    """A section that only writes down what it is asked, and when."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name = name
        self.events = events
        self.taken = 0
        self.given = 0

    def submit(self, _frame: np.ndarray, _edges: np.ndarray | None = None) -> None:
        self.events.append(f"{self.name} {self.taken} begins")
        self.taken += 1

    def collect(self, _out: np.ndarray) -> StageTimes:
        self.events.append(f"{self.name} {self.given} awaited")
        self.given += 1
        return StageTimes(1, 1)

    def memory(self) -> MemoryUse:
        return MemoryUse(0, 0, 0, 7)

    def close(self) -> None:
        self.events.append(f"{self.name} closed")


def test_the_unet_works_on_one_frame_while_the_next_is_encoded_and_the_last_decoded(
    demo: Checkpoint,
) -> None:
    events: list[str] = []
    backend = CoreMLBackend(demo, options(NE_GPU_NE))
    blank = np.zeros((SIZE, SIZE, 3), np.uint8)
    backend._sections = [
        Section((name,), Recorder(name, events), blank) for name in ("encode", "unet", "decode")
    ]
    for _ in range(3):
        backend.submit(blank)
    times = backend.collect(blank)
    backend.submit(blank)
    assert times.bridge_ns == 3 and backend.memory().model_bytes == 21
    began, awaited = (
        (lambda what: events.index(f"{what} begins")),
        (lambda what: events.index(f"{what} awaited")),
    )
    assert began("unet 0") < began("encode 1") < began("unet 1") < awaited("unet 0")
    assert (
        began("unet 1") < began("decode 0") < began("encode 3") and "unet 1 awaited" not in events
    )
    backend.close()
    assert events[-3:] == ["encode closed", "unet closed", "decode closed"]


@pytest.mark.parametrize(
    "wrong",
    [
        "encode=ne",
        "encode=ne,unet=gpu,decode=tpu",
        "encode=ne,unet=gpu,unet=gpu",
        "ne,gpu,ne",
        "encode=ne,unet=,decode=ne",
    ],
)
def test_a_placement_that_cannot_be_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="--placement .*encode=ne,unet=gpu,decode=ne"):
        parse_placement(wrong)


def test_placement_and_compute_units_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        CoreMLOptions(SIZE, placement=parse_placement(NE_GPU_NE), compute_units="all")


def test_stages_are_cut_where_the_unit_changes() -> None:
    def cut(placement: str) -> list[tuple[str, tuple[str, ...]]]:
        return split(CoreMLOptions(SIZE, placement=parse_placement(placement)))

    assert cut("") == [("cpu_and_gpu", ("frame",))]
    assert cut(NE_GPU_NE) == [("ne", ("encode",)), ("gpu", ("unet",)), ("ne", ("decode",))]
    assert cut("decode=gpu,unet=gpu,encode=ne") == [
        ("ne", ("encode",)),
        ("gpu", ("unet", "decode")),
    ]
    placed = CoreMLOptions(SIZE, placement=parse_placement(NE_GPU_NE))
    assert [placed.units(stage) for stage in placed.stages] == [
        "cpu_and_ne",
        "cpu_and_gpu",
        "cpu_and_ne",
    ]


def test_a_plane_takes_nothing_else() -> None:
    latents = Plane((1, 4, 8, 8), "float32")
    latents.check(np.zeros((1, 4, 8, 8), np.float32))
    assert latents.nbytes == 1024
    for wrong in (
        np.zeros((1, 4, 8, 8)),
        np.zeros((1, 8, 8, 4), np.float32),
        np.zeros((1, 4, 8, 16), np.float32)[..., ::2],
    ):
        with pytest.raises(BackendError, match="expected contiguous float32"):
            latents.check(wrong)


def test_the_clip_through_a_pipeline_from_the_command_line(tmp_path: Path) -> None:
    out, stats = tmp_path / "out.mp4", tmp_path / "stats.json"
    # In a process of its own: a session that leaves a slow frame in flight behind ends it.
    command = [
        sys.executable,
        "-m",
        "sdxs.cli",
        "live",
        "--backend",
        "coreml",
        "--coreml-runtime",
        "reference",
        "--model",
        "demo",
        "--size",
        str(SIZE),
        "--placement",
        NE_GPU_NE,
        "--source",
        str(CLIP),
        "--frames",
        "5",
        "--headless",
        "--out",
        str(out),
        "--stats",
        str(stats),
        "--verbose",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (facts,) = json.loads(stats.read_text())["backends"]
    assert "NOT Core ML" in done.stdout and facts["placement"] == NE_GPU_NE
    assert all(f"operations of {stage}" in done.stderr for stage in ("encode", "unet", "decode"))
    assert VideoFile(out).length == 5
    until(
        lambda: not any(is_running(int(facts[name])) for name in ("process", "process of unet")),
        "both processes to end",
    )
