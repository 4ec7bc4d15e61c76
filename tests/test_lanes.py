"""Several frames in flight give the pictures that one at a time gives."""

import gc
import threading
import weakref

import numpy as np
import pytest

from sdxs.common.backend import BackendOptions, FrameParams
from sdxs.common.checkpoint import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.mlx_sdxs import backend as module
from sdxs.mlx_sdxs.backend import MlxBackend

SIZE = 64


def pictures(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8))


def render_all(checkpoint: Checkpoint, lanes: int, feedback: float, at_once: int) -> list[np.ndarray]:
    backend = MlxBackend(checkpoint, BackendOptions(SIZE, settings=(("lanes", str(lanes)),)))
    backend.load()
    assert backend.depth == lanes and backend.describe()["lanes"] == str(lanes)
    backend.set_conditioning(np.random.default_rng(1).standard_normal((1, 77, 64), dtype=np.float32))
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


@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_frames_in_flight_change_no_picture(tiny_sdxs: Checkpoint, feedback: float) -> None:
    alone = render_all(tiny_sdxs, 1, feedback, 1)
    for lanes in (2, 3):
        for one, other in zip(alone, render_all(tiny_sdxs, lanes, feedback, lanes), strict=True):
            np.testing.assert_array_equal(one, other)
    assert any(not np.array_equal(alone[0], other) for other in alone[1:])


def test_a_prompt_change_leaves_frames_in_flight_as_they_were(tiny_sdxs: Checkpoint) -> None:
    backend = MlxBackend(tiny_sdxs, BackendOptions(SIZE, settings=(("lanes", "2"),)))
    backend.load()
    states = [np.random.default_rng(n).standard_normal((1, 77, 64), dtype=np.float32) for n in (1, 2)]
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
    backend = MlxBackend(tiny_sdxs, BackendOptions(SIZE, settings=(("lanes", "2"),)))
    backend.load()
    good = backend._prompt
    frame, out = pictures(1)[0], np.empty((SIZE, SIZE, 3), np.uint8)
    backend.submit(frame)
    backend._prompt = good[:-1]  # a key and value too few
    backend.submit(frame)
    backend._prompt = good
    backend.submit(frame)
    backend.collect(out)
    with pytest.raises(BackendError, match="a frame failed"):
        backend.collect(out)
    backend.collect(out)
    backend.close()


def test_old_frames_are_not_kept(tiny_sdxs: Checkpoint) -> None:
    backend = MlxBackend(tiny_sdxs, BackendOptions(SIZE, settings=(("lanes", "2"),)))
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
    backend = MlxBackend(tiny_sdxs, BackendOptions(SIZE, settings=(("lanes", "3"),)))
    backend.load()
    assert len(set(threading.enumerate()) - before) == 3
    backend.close()
    assert set(threading.enumerate()) == before


def test_one_lane_is_the_callers_own_thread_and_may_be_fed_ahead(tiny_sdxs: Checkpoint) -> None:
    """With feedback a frame needs the one before it, which here nobody has waited for yet."""
    before = set(threading.enumerate())
    alone = render_all(tiny_sdxs, 1, 0.5, 1)
    ahead = render_all(tiny_sdxs, 1, 0.5, 3)
    assert set(threading.enumerate()) == before
    for one, other in zip(alone, ahead, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("lanes", ["1", "2"])
def test_a_frame_that_cannot_be_built_is_reported_when_collected(tiny_sdxs: Checkpoint, lanes: str) -> None:
    backend = MlxBackend(tiny_sdxs, BackendOptions(SIZE, settings=(("lanes", lanes),)))
    backend.load()
    good, frame, out = backend._prompt, pictures(1)[0], np.empty((SIZE, SIZE, 3), np.uint8)
    backend._prompt = good[:-1]  # a key and value too few
    backend.submit(frame)
    backend._prompt = good
    backend.submit(frame)
    with pytest.raises(BackendError, match="a frame failed"):
        backend.collect(out)
    backend.collect(out)
    backend.close()


@pytest.mark.parametrize("value", ["0", "9", "two", "-1", "1.5"])
def test_a_number_of_lanes_that_cannot_be(tiny_sdxs: Checkpoint, value: str) -> None:
    with pytest.raises(UsageError, match=f"--lanes {value}: expected a whole number from 1 to 8"):
        MlxBackend(tiny_sdxs, BackendOptions(SIZE, settings=(("lanes", value),)))


def test_an_unknown_setting_is_refused(tiny_sdxs: Checkpoint) -> None:
    with pytest.raises(UsageError, match="unknown setting 'attention'"):
        MlxBackend(tiny_sdxs, BackendOptions(SIZE, settings=(("attention", "sdpa"),)))


def test_without_a_word_a_cpu_gets_a_lane_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "on_gpu", lambda: False)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 16)
    assert module._lanes(()) == 4
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    assert module._lanes(()) == 2
