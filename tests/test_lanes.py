"""Several frames in flight give the pictures that one at a time gives."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from sdxs.common.backend.memory import anonymous_bytes
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.settings import parse_settings
from sdxs.experiments.parity.control import tiny_controlled
from sdxs.mlx_sdxs import backend as module
from sdxs.mlx_sdxs import blas, streams
from sdxs.mlx_sdxs import lanes as lanes_module
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.lanes import Job, _at_once
from sdxs.mlx_sdxs.networks.layers import load_weights
from sdxs.mlx_sdxs.networks.unet import UNet2DConditionModel
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 64


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8))


def made_of(size: int = SIZE, **settings: str) -> MlxOptions:
    """Options as the command line makes them out of texts."""
    return parse_settings(MlxOptions, settings, "mlx", size=size)


def render_all(
    checkpoint: Checkpoint,
    lanes: int,
    feedback: float,
    at_once: int,
    more: tuple[tuple[str, str], ...] = (),
) -> list[np.ndarray]:
    backend = MlxBackend(checkpoint, made_of(lanes=str(lanes), **dict(more)))
    backend.load()
    assert backend.depth == int(dict(more).get("depth", lanes)) and dict(backend.describe().facts)[
        "lanes"
    ] == str(lanes)
    backend.set_conditioning(
        np.random.default_rng(1).standard_normal((1, 77, 64), dtype=np.float32)
    )
    backend.set_params(FrameParams(seed=3, feedback=feedback))
    out, waiting = [], 0
    for frame in pictures(7):
        backend.submit(frame)
        waiting += 1
        if waiting == at_once:
            out.append(np.empty_like(frame))
            backend.collect(out[-1])
            waiting -= 1
    while waiting:
        out.append(np.empty((SIZE, SIZE, 3), np.uint8))
        backend.collect(out[-1])
        waiting -= 1
    backend.close()
    return out


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_warm_ups_picture_does_not_shine_through(tiny_sdxs: Checkpoint, lanes: int) -> None:
    """The first frame has none before it: with feedback it is as without, after the warm-up too."""
    with_feedback, without = (render_all(tiny_sdxs, lanes, f, 1) for f in (0.5, 0.0))
    np.testing.assert_array_equal(with_feedback[0], without[0])
    assert (with_feedback[1] != without[1]).any()


@pytest.fixture
def one_blas_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lanes: on some CPUs the number of threads in a product changes its last bits."""
    blas.share_among(os.cpu_count() or 1)
    monkeypatch.setattr(blas, "share_among", lambda callers: None)


@pytest.mark.usefixtures("one_blas_thread")
@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_frames_in_flight_change_no_picture(tiny_sdxs: Checkpoint, feedback: float) -> None:
    alone = render_all(tiny_sdxs, 1, feedback, 1)
    for lanes in (2, 3):
        for one, other in zip(alone, render_all(tiny_sdxs, lanes, feedback, lanes), strict=True):
            np.testing.assert_array_equal(one, other)
    assert any(not np.array_equal(alone[0], other) for other in alone[1:])


def test_a_prompt_change_leaves_frames_in_flight_as_they_were(tiny_sdxs: Checkpoint) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=2))
    backend.load()
    states = [
        np.random.default_rng(n).standard_normal((1, 77, 64), dtype=np.float32) for n in (1, 2)
    ]
    frame, out = pictures(1)[0], [np.empty((SIZE, SIZE, 3), np.uint8) for _ in range(3)]
    backend.set_conditioning(states[0])
    backend.submit(frame)
    backend.set_conditioning(states[1])
    backend.submit(frame)
    backend.collect(out[0])
    backend.collect(out[1])
    backend.set_conditioning(states[0])
    backend.submit(frame)
    backend.collect(out[2])
    backend.close()
    np.testing.assert_array_equal(out[0], out[2])
    assert not np.array_equal(out[0], out[1])


def test_a_frame_that_fails_is_reported_by_its_own_collect(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=2))
    backend.load()
    good = backend._encoder_hidden_states
    frame, out = pictures(1)[0], np.empty((SIZE, SIZE, 3), np.uint8)
    backend.submit(frame)
    backend._encoder_hidden_states = good[:-1]  # a key and value too few
    backend.submit(frame)
    backend._encoder_hidden_states = good
    backend.submit(frame)
    backend.collect(out)
    with pytest.raises(BackendError, match="a frame failed"):
        backend.collect(out)
    backend.collect(out)
    backend.close()


def test_old_frames_are_not_kept(tiny_sdxs: Checkpoint) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=2))
    backend.load()
    backend.set_params(FrameParams(feedback=0.5))
    out, kept = np.empty((SIZE, SIZE, 3), np.uint8), []
    for frame in pictures(5):
        backend.submit(frame)
        kept.append(weakref.ref(backend._in_flight[-1][0].done))
        backend.collect(out)
    gc.collect()
    assert [ref() is not None for ref in kept] == [False, False, False, False, True]
    backend.close()


def test_close_ends_every_thread(tiny_sdxs: Checkpoint) -> None:
    before = set(threading.enumerate())
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=3))
    backend.load()
    assert len(set(threading.enumerate()) - before) == 3
    backend.close()
    assert set(threading.enumerate()) == before


def tasks() -> int:
    """Threads of this process as the system counts them, those of MLX included."""
    return len(list(Path("/proc/self/task").iterdir()))


def load_and_close(checkpoint: Checkpoint, lanes: int = 2) -> None:
    backend = MlxBackend(checkpoint, MlxOptions(SIZE, lanes=lanes))
    backend.load()
    backend.close()


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="only Linux lists its threads there"
)


@needs_proc
def test_loading_again_and_again_leaves_no_thread_of_mlx(tiny_sdxs: Checkpoint) -> None:
    """Bug: a CPU stream is a thread, and each lane left its own: 200 models, 200 threads."""
    counts = []
    for _ in range(5):
        thread = threading.Thread(target=load_and_close, args=(tiny_sdxs,))  # as of a session
        thread.start()
        thread.join()
        counts.append(tasks())
    assert max(counts[2:]) <= max(counts[:2])


@needs_proc
def test_loading_again_and_again_keeps_no_memory(tiny_sdxs: Checkpoint) -> None:
    """Bug: MLX's random key kept the operations of every model built: 0.4 MB each."""

    def build(times: int) -> int:
        for _ in range(times):
            unet = UNet2DConditionModel(tiny_sdxs.unet)
            load_weights(unet, tiny_sdxs.unet_weights, mx.float32)
        del unet
        gc.collect()
        return anonymous_bytes()

    before = build(5)
    assert build(25) - before < 3_000_000  # 8 MB with the bug


def test_two_models_of_a_thread_share_its_stream(tiny_sdxs: Checkpoint) -> None:
    """Closing the first must not take the stream from under the second."""
    outs: list[np.ndarray] = []

    def work() -> None:
        first, second = (MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=1)) for _ in range(2))
        first.load()
        second.load()
        first.close()
        out = np.empty((SIZE, SIZE, 3), np.uint8)
        second.submit(pictures(1)[0])
        second.collect(out)
        second.close()
        outs.append(out)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(outs) == 1 and streams._free


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_model_that_is_dropped_unclosed_is_freed(tiny_sdxs: Checkpoint, lanes: int) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=lanes))
    backend.load()
    backend.submit(pictures(1)[0])
    unet, threads = weakref.ref(backend._frame.unet), [t for t, _ in streams._ending]
    del backend
    for thread in threads:
        thread.join(60)
    assert unet() is None and not any(thread.is_alive() for thread in threads)


def test_a_dropped_model_does_not_abort_the_exit(tiny_sdxs: Checkpoint) -> None:
    """Bug: lanes that still end while the interpreter does aborted it, 5 times in 6."""
    code = (
        "import sys; from pathlib import Path\n"
        "from sdxs.api import open_model\n"
        f"model = open_model({str(tiny_sdxs.folder)!r}, 'mlx', {SIZE})\n"
        "del model\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_lane_that_cannot_begin_fails_its_jobs() -> None:
    """Bug: it died with the traceback of its thread, and its jobs were waited for without end."""

    def make() -> list[lanes_module.Render]:
        raise MemoryError("no room for a compiled function")

    lane = lanes_module.LaneThread(0, make)
    first, later = job(), job()
    lane.submit(first)
    lane.wait(first)
    lane._thread.join(60)
    lane.submit(later)
    lane.wait(later)
    assert isinstance(first.error, MemoryError) and later.error is first.error
    lane.close()


def test_one_lane_is_the_callers_own_thread_and_may_be_fed_ahead(tiny_sdxs: Checkpoint) -> None:
    """With feedback a frame needs the one before it, which here nobody has waited for yet."""
    before = set(threading.enumerate())
    alone = render_all(tiny_sdxs, 1, 0.5, 1)
    ahead = render_all(tiny_sdxs, 1, 0.5, 3)
    assert set(threading.enumerate()) == before
    for one, other in zip(alone, ahead, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_frame_that_cannot_be_built_is_reported_when_collected(
    tiny_sdxs: Checkpoint, lanes: str
) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=lanes))
    backend.load()
    good, frame, out = (
        backend._encoder_hidden_states,
        pictures(1)[0],
        np.empty((SIZE, SIZE, 3), np.uint8),
    )
    backend._encoder_hidden_states = good[:-1]  # a key and value too few
    backend.submit(frame)
    backend._encoder_hidden_states = good
    backend.submit(frame)
    with pytest.raises(BackendError, match="a frame failed"):
        backend.collect(out)
    backend.collect(out)
    backend.close()


@pytest.mark.parametrize("value", ["0", "9", "two", "-1", "1.5"])
def test_a_number_of_lanes_that_cannot_be(tiny_sdxs: Checkpoint, value: str) -> None:
    with pytest.raises(UsageError, match=f"mlx:lanes={value}: expected a whole number from 1 to 8"):
        MlxBackend(tiny_sdxs, made_of(lanes=value))


def test_an_unknown_setting_is_refused(tiny_sdxs: Checkpoint) -> None:
    with pytest.raises(
        UsageError,
        match="'speed'; known are dtype, lanes, batch, depth, kernels, attention, pictures",
    ):
        MlxBackend(tiny_sdxs, made_of(speed="high"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch", "3", "batch 3: expected a power of two, up to 16"),
        ("batch", "32", "mlx:batch=32: expected a whole number from 1 to 16"),
        ("depth", "0", "mlx:depth=0: expected a whole number from 1 to 64"),
        ("kernels", "yes", "kernels=yes: expected one of auto, on, off"),
        ("attention", "sdpa", "attention=sdpa: expected one of auto, fused, folded"),
        ("pictures", "here", "pictures=here: expected one of auto, host, moving"),
        ("pictures", "host", "pictures=host: only CUDA"),
    ],
)
def test_a_setting_that_cannot_be(
    tiny_sdxs: Checkpoint, name: str, value: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        MlxBackend(tiny_sdxs, made_of(**{name: value}))


def test_several_steps_refuse_what_only_one_can_have(demo: Checkpoint) -> None:
    several = replace(demo, frame=replace(demo.frame, steps=2))
    with pytest.raises(UsageError, match="attention=folded goes with one step, not with 2"):
        MlxBackend(several, MlxOptions(SIZE, attention="folded"))
    assert dict(MlxBackend(several, MlxOptions(SIZE)).describe().facts)["attention"] == "fused"


def test_how_many_frames_are_in_flight(tiny_sdxs: Checkpoint) -> None:
    def depth(**settings: str) -> int:
        return MlxBackend(tiny_sdxs, made_of(**settings)).depth

    assert depth(lanes="3") == 3 and depth(lanes="1", depth="2") == 2
    assert depth(lanes="2", batch="4") == 12  # two batches under way and one that waits
    assert depth(lanes="8", batch="16") == 64
    with pytest.raises(UsageError, match="depth 2: no batch of 4 would ever be full"):
        depth(batch="4", depth="2")


def test_what_cuda_decides_by_itself(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(**settings: str) -> tuple[str, str]:
        said = dict(MlxBackend(tiny_sdxs, made_of(dtype="float32", **settings)).describe().facts)
        return said["attention"], said["pictures"]

    host, moving = "in the host's memory", "as MLX has them"
    assert described(lanes="2") == ("fused", moving) and described(attention="folded") == (
        "folded",
        moving,
    )
    monkeypatch.setattr(module, "on_cuda", lambda: True)
    assert described(lanes="1") == ("folded", moving) and described(lanes="2") == ("folded", host)
    assert described(lanes="1", batch="4") == ("fused", host)
    assert described(lanes="1", pictures="host", attention="fused") == ("fused", host)
    assert described(lanes="4", pictures="moving") == ("folded", moving)


def test_a_batch_has_room_for_its_buffers(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit(size: int, **settings: str) -> int:
        return MlxBackend(tiny_sdxs, made_of(size, dtype="float32", **settings))._cache_limit()

    # A CPU computes the frames of a batch one after the other.
    monkeypatch.setattr(module, "on_gpu", lambda: False)
    assert limit(512, lanes="2", batch="4") == module.CACHE_LIMIT_BYTES
    monkeypatch.setattr(module, "on_gpu", lambda: True)
    monkeypatch.setattr(module.mx, "device_info", lambda: {"total_memory": 100 * 2**30})
    assert limit(512, lanes="4") == module.CACHE_LIMIT_BYTES
    assert (
        limit(512, lanes="2", batch="4") == 16 * 2**30
        and limit(64, lanes="2", batch="4") == module.CACHE_LIMIT_BYTES
    )
    assert limit(512, lanes="4", batch="16") == 50 * 2**30


@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_folded_attention_changes_no_picture(tiny_sdxs: Checkpoint, feedback: float) -> None:
    fused, folded = (
        # float32 on a GPU too: in float16 the two forms differ by four levels.
        render_all(tiny_sdxs, 2, feedback, 2, (("attention", attention), ("dtype", "float32")))
        for attention in ("fused", "folded")
    )
    for one, other in zip(fused, folded, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def job(prompt: str = "a", edges: np.ndarray | None = None, **changes: object) -> Job:
    given = {
        "noise": "n",
        "feedback": 0.0,
        "previous": None,
        "edges": edges,
        "submitted_ns": 0,
    } | changes
    return Job(np.zeros(1), prompt, **given)  # type: ignore[arg-type]


def test_only_jobs_that_are_alike_are_computed_at_once() -> None:
    edges = np.zeros((2, 2), np.uint8)
    first = job()
    for other in (
        job("b"),
        job(noise="m"),
        job(edges=edges),
        job(text_only=True),
        job(feedback=0.5, previous=first),
    ):
        assert not first.alike(other) and not other.alike(first)
    assert (
        first.alike(job())
        and first.alike(job(feedback=0.5))
        and job(edges=edges).alike(job(edges=edges.copy()))
    )
    needing = job(feedback=0.5, previous=first)
    assert _at_once([needing, job()], 4) == 1
    alike = [job() for _ in range(7)]
    assert [_at_once(alike[:n], 4) for n in range(1, 8)] == [1, 2, 2, 4, 4, 4, 4]
    assert _at_once([*alike[:3], job("b"), *alike], 8) == 2


@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_a_batch_changes_no_picture(
    tiny_sdxs: Checkpoint, feedback: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, held = [], threading.Event()
    start = lanes_module._start

    def watched(render: object, jobs: list[Job], keep: bool) -> object:
        sizes.append(len(jobs))
        if len(sizes) == 4:
            held.wait(timeout=60)  # until the others wait behind the first after the warm-up
        return start(render, jobs, keep)

    # float32 on a GPU too: in float16 the sums of a batch are rounded in another order
    whole = ("dtype", "float32")
    alone = render_all(tiny_sdxs, 1, feedback, 1, (whole,))
    monkeypatch.setattr(lanes_module, "_start", watched)
    submit = MlxBackend.submit

    def counted(self: MlxBackend, frame: np.ndarray) -> None:
        submit(self, frame)
        if self._turn == 7:
            held.set()

    monkeypatch.setattr(MlxBackend, "submit", counted)
    batched = render_all(tiny_sdxs, 1, feedback, 7, (("batch", "4"), ("depth", "7"), whole))
    for one, other in zip(alone, batched, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert sizes[:3] == [1, 2, 4]  # of the warm-up
    assert (
        sum(sizes[3:]) == 7
        and (4 in sizes[3:]) == (feedback == 0.0)
        and (max(sizes[3:]) == 1) == (feedback != 0.0)
    )


def test_a_batch_that_fails_is_reported_for_every_frame_of_it(tiny_sdxs: Checkpoint) -> None:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE, lanes=1, batch=2))
    backend.load()
    good, (frame, *_), out = (
        backend._encoder_hidden_states,
        pictures(1),
        np.empty((SIZE, SIZE, 3), np.uint8),
    )
    backend._encoder_hidden_states = good[:-1]
    broken = [backend._job(frame, None) for _ in range(2)]
    backend._lanes[0].submit(*broken)
    backend._in_flight.extend((one, backend._lanes[0]) for one in broken)
    backend._encoder_hidden_states = good
    backend.submit(frame)
    for _ in broken:
        with pytest.raises(BackendError, match="a frame failed"):
            backend.collect(out)
    backend.collect(out)
    backend.close()


def test_edges_go_with_their_own_frames_of_a_batch(tmp_path: Path) -> None:
    checkpoint = tiny_controlled(tmp_path, "sdxs-512-dreamshaper")
    generator = np.random.default_rng(2)
    frames, drawn = (
        pictures(4),
        [generator.integers(0, 256, (SIZE, SIZE), dtype=np.uint8) for _ in range(4)],
    )
    rendered = []
    for batch in (1, 4):  # float32 as in the test of batches above
        backend = MlxBackend(checkpoint, MlxOptions(SIZE, dtype="float32", lanes=1, batch=batch))
        backend.load()
        backend.set_params(FrameParams(control_scale=1.0))
        outs = [np.empty((SIZE, SIZE, 3), np.uint8) for _ in frames]
        jobs = [backend._job(*given) for given in zip(frames, drawn, strict=True)]
        for group in [jobs] if batch > 1 else [[one] for one in jobs]:
            backend._lanes[0].submit(*group)
        backend._in_flight.extend((one, backend._lanes[0]) for one in jobs)
        for out in outs:
            backend.collect(out)
        rendered.append(outs)
        backend.close()
    for one, other in zip(*rendered, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert not np.array_equal(rendered[0][0], rendered[0][1])


def test_without_a_word_a_cpu_gets_a_lane_a_core(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "on_gpu", lambda: False)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 16)
    assert MlxBackend(tiny_sdxs, MlxOptions(SIZE)).lanes == 4
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    assert MlxBackend(tiny_sdxs, MlxOptions(SIZE)).lanes == 2
