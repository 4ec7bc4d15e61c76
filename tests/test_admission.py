"""Just-in-time admission, on a simulated clock and a simulated pipeline."""

from collections import deque

import pytest

from sdxs.common.live.threads.admission import FOREVER_NS, Admission

MS = 1_000_000


class Pipeline:
    """Stages in a row, each busy with one frame at a time; knows when each frame will be done."""

    def __init__(self, stages_ms: tuple[float, ...]) -> None:
        self._stages = [round(stage * MS) for stage in stages_ms]
        self._free = [0] * len(stages_ms)
        self.done: deque[int] = deque()

    def submit(self, now: int) -> None:
        for number, stage in enumerate(self._stages):
            now = max(now, self._free[number]) + stage
            self._free[number] = now
        self.done.append(now)


def simulate(stages_ms: tuple[float, ...], depth: int, frames: int) -> tuple[float, float, int]:
    """Return frames per second, median latency in ms, and the most frames in flight."""
    pipeline, admission, now = Pipeline(stages_ms), Admission(depth), 0
    submitted: deque[int] = deque()
    latencies, finished, most = [], [], 0
    while len(finished) < frames:
        window = admission.window_ns()
        if window is not None:
            now = max(now, window[0])
            admission.submitted(now)
            pipeline.submit(now)
            submitted.append(now)
            most = max(most, len(submitted))
            continue
        now = max(now, pipeline.done.popleft())
        admission.collected(now)
        latencies.append((now - submitted.popleft()) / MS)
        finished.append(now)
    settled = frames // 2
    rate = (frames - settled - 1) / ((finished[-1] - finished[settled]) / 1e9)
    return rate, sorted(latencies[settled:])[(frames - settled) // 2], most


@pytest.mark.parametrize(
    ("stages", "depth"),
    [
        ((25.0,), 1),
        ((5, 24.4, 5), 3),
        ((10, 10, 10), 3),
        ((24.4, 5, 5), 3),
        ((5, 5, 24.4), 3),
        ((3, 20), 2),
    ],
)
def test_full_rate_at_nearly_the_latency_of_an_empty_pipeline(
    stages: tuple[float, ...], depth: int
) -> None:
    rate, latency, most = simulate(stages, depth, 1000)
    assert rate >= 0.98 * 1000 / max(stages)
    # an eager pipeline would queue up to depth times its slowest stage
    assert latency <= sum(stages) + 0.1 * max(stages) + 1.5
    assert most <= depth


def test_eager_admission_would_be_staler() -> None:
    pipeline, now, waits = Pipeline((5, 24.4, 5)), 0, []
    inside: deque[int] = deque()
    for _ in range(200):
        while len(inside) < 3:
            pipeline.submit(now)
            inside.append(now)
        now = max(now, pipeline.done.popleft())
        waits.append((now - inside.popleft()) / MS)
    assert sorted(waits)[100] > 60
    assert simulate((5, 24.4, 5), 3, 400)[1] < 40


def test_depth_one_submits_only_into_an_empty_backend() -> None:
    admission = Admission(1)
    assert admission.window_ns() == (0, FOREVER_NS)
    admission.submitted(0)
    assert admission.window_ns() is None
    admission.collected(25 * MS)
    assert admission.window_ns() == (0, FOREVER_NS)


def simulate_camera(
    stages_ms: tuple[float, ...], depth: int, camera_ms: float, seconds: float
) -> float:
    """Rate with a camera that has a new frame every `camera_ms`; a frame is used once."""
    pipeline, admission, now, used, finished = Pipeline(stages_ms), Admission(depth), 0, -1, []
    while now < seconds * 1e9:
        window = admission.window_ns()
        if window is not None:
            newest = int(max(now, window[0]) // (camera_ms * MS))
            at = max(now, window[0]) if newest > used else round((used + 1) * camera_ms * MS)
            if at <= window[1]:
                now, used = at, max(newest, used + 1)
                admission.submitted(now)
                pipeline.submit(now)
                continue
        if pipeline.done:
            now = max(now, pipeline.done.popleft())
            admission.collected(now)
            finished.append(now)
    return (len(finished) - 1) / ((finished[-1] - finished[0]) / 1e9)


@pytest.mark.parametrize("camera_ms", [1000 / 60, 1000 / 120, 1000 / 45])
def test_a_real_camera_keeps_the_pipeline_full(camera_ms: float) -> None:
    """Bug: with missing estimates the loop ignored the camera and kept one frame in flight."""
    assert simulate_camera((5, 24.4, 5), 3, camera_ms, 20) >= 40


def test_a_slow_camera_sets_the_pace() -> None:
    assert simulate_camera((5, 24.4, 5), 3, 50, 20) == pytest.approx(20, rel=0.01)
