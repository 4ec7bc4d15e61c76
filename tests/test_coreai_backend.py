"""The Core AI backend on Apple's runtime: state, sizes, inputs in place, protocol, and its end."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coreai_here import build_here, shared_weights
from sdxs.common.backend.program_cache import size_bytes
from sdxs.common.backend.protocol import Backend, FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, PictureError, UsageError
from sdxs.common.picture.size import FrameSize
from sdxs.coreai_backend import runner as runner_module
from sdxs.coreai_backend.backend import CoreAIBackend
from sdxs.coreai_backend.cache import PROGRAMS
from sdxs.coreai_backend.ops import CoreAIOps
from sdxs.coreai_backend.options import CoreAIOptions
from sdxs.coreai_backend.prepare import find_or_build
from sdxs.coreai_backend.runner import Runner
from sdxs.experiments.parity.control import tiny_controlled
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 32
OPTIONS = CoreAIOptions(SIZE, dtype="float32")
OVERFLOWS = np.float32(3e38)  # no sum of it is finite
Open = Callable[..., Backend]


@pytest.fixture(autouse=True)
def own_weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shared_weights(tmp_path_factory)
    monkeypatch.setenv("SDXS_WEIGHTS", str(folder))
    build_here(monkeypatch)
    return folder


@pytest.fixture
def opened() -> Iterator[Open]:
    """Load a backend that is closed at the end, with a prompt."""
    made: list[Backend] = []

    def load(checkpoint: Checkpoint, options: CoreAIOptions | MlxOptions = OPTIONS) -> Backend:
        kind = MlxBackend if isinstance(options, MlxOptions) else CoreAIBackend
        made.append(kind(checkpoint, options))  # type: ignore[arg-type]
        made[-1].load()
        made[-1].set_conditioning(states(checkpoint))
        return made[-1]

    yield load
    for backend in made:
        backend.close()


@pytest.fixture(scope="module")
def sketched(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny checkpoint with a ControlNet."""
    return tiny_controlled(tmp_path_factory.mktemp("sketched"), "sdxs-512-dreamshaper")


def states(checkpoint: Checkpoint, seed: int = 0) -> np.ndarray:
    width = checkpoint.unet.cross_attention_dim
    return np.random.default_rng(seed).standard_normal((1, 77, width), dtype=np.float32)


def picture(seed: int = 0, size: FrameSize | int = SIZE) -> np.ndarray:
    shape = (*FrameSize.of(size).shape, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def edges(seed: int = 0) -> np.ndarray:
    return (255 * (np.random.default_rng(seed).random((SIZE, SIZE)) < 0.1)).astype(np.uint8)


def render(backend: Backend, frame: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
    out = np.empty_like(frame)
    backend.submit(frame, drawn)
    assert backend.collect(out).total_ns > 0
    return out


def off(ours: np.ndarray, theirs: np.ndarray) -> int:
    """The largest difference in levels."""
    return int(np.abs(ours.astype(int) - theirs).max())


# What a session changes


def test_frames_under_feedback_equal_mlx_one_after_the_other(
    demo: Checkpoint, opened: Open
) -> None:
    ours, mlx = opened(demo), opened(demo, MlxOptions(SIZE, dtype="float32"))
    made = []
    for params in (FrameParams(3, 0.6), FrameParams(3, 0.6), FrameParams(4, 0.3)):
        frame = picture(len(made))
        for backend in (ours, mlx):
            backend.set_params(params)
        made.append(render(ours, frame))
        assert off(made[-1], render(mlx, frame)) <= 1
    ours.set_params(FrameParams(3, 0.0))
    assert off(render(ours, picture(1)), made[1]) > 1, "the feedback made no difference"


def test_text_only_equals_mlx_and_ends(demo: Checkpoint, opened: Open) -> None:
    ours, mlx = opened(demo), opened(demo, MlxOptions(SIZE, dtype="float32"))
    seen = []
    for text_only in (True, True, False):
        for backend in (ours, mlx):
            backend.set_params(FrameParams(3, 0.4, text_only=text_only))
        seen.append(render(ours, picture()))
        assert off(seen[-1], render(mlx, picture())) <= 1
    assert np.array_equal(seen[0], seen[1]) and off(seen[1], seen[2]) > 1


def test_a_prompt_changes_the_picture_and_changes_it_back(demo: Checkpoint, opened: Open) -> None:
    backend, made = opened(demo), []
    for seed in (0, 1, 0):
        backend.set_conditioning(states(demo, seed))
        made.append(render(backend, picture()))
    assert np.array_equal(made[0], made[2]) and off(made[0], made[1]) > 1


def test_one_program_has_several_sizes_and_shares_their_weights(
    demo: Checkpoint, opened: Open
) -> None:
    sizes = (FrameSize.of(SIZE), FrameSize(64, 32))
    for size in sizes:
        ours = opened(demo, CoreAIOptions(size, dtype="float32", sizes=sizes))
        mlx = opened(demo, MlxOptions(size, dtype="float32"))
        assert off(render(ours, picture(1, size)), render(mlx, picture(1, size))) <= 1
    built = find_or_build(demo, CoreAIOptions(SIZE, dtype="float32", sizes=sizes))
    assert built.news == "", "each size built a program of its own"
    alone = find_or_build(demo, OPTIONS)
    assert size_bytes(built.source("frame")) < 1.1 * size_bytes(alone.source("frame"))


def test_the_controlled_program_takes_over_and_gives_back(
    sketched: Checkpoint, opened: Open
) -> None:
    """The first frame of each has no feedback, as in the Core ML backend."""
    ours, mlx = opened(sketched), opened(sketched, MlxOptions(SIZE, dtype="float32"))
    made: list[np.ndarray] = []
    for scale, fresh in ((0.0, True), (0.8, True), (0.8, False), (0.0, True)):
        ours.set_params(FrameParams(3, 0.5, control_scale=scale))
        mlx.set_params(FrameParams(3, 0.0 if fresh else 0.5, control_scale=scale))
        made.append(render(ours, picture(), edges()))
        assert off(made[-1], render(mlx, picture(), edges())) <= 1, len(made)
    assert off(made[0], made[1]) > 1 and off(made[1], made[2]) > 1
    assert np.array_equal(made[0], made[3])
    ours.set_params(FrameParams(3, control_scale=0.8))
    with pytest.raises(BackendError, match="without edges"):
        ours.submit(picture())


# Compressed weights


@pytest.mark.slow  # a layer of each is tested in test_coreai_private
@pytest.mark.parametrize(
    ("storage", "share"),
    [
        ("int8", 0.6),
        pytest.param("palettize4", 0.35, marks=pytest.mark.thorough),
        pytest.param("palettize8", 0.6, marks=pytest.mark.thorough),
        pytest.param("palettize2", 0.25, marks=pytest.mark.thorough),
    ],
)
def test_a_compressed_program_computes_with_the_values_that_were_stored(
    demo: Checkpoint, storage: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the program of those values in float16: nothing is left but compression's error."""
    x0, stored = x0_of(demo, options := CoreAIOptions(SIZE, weights=storage))
    exact, whole = x0_of(demo, CoreAIOptions(SIZE))
    monkeypatch.setattr(CoreAIOps, "decompress", lambda self, given: given.rebuilt)
    monkeypatch.setenv("SDXS_WEIGHTS", str(PROGRAMS.folder / "plain"))
    rebuilt, _ = x0_of(demo, options)
    apart = np.linalg.norm(x0 - rebuilt) / np.linalg.norm(rebuilt)
    assert apart < 1e-3
    assert np.linalg.norm(x0 - exact) / np.linalg.norm(exact) > 3 * apart
    assert stored < share * whole


def x0_of(checkpoint: Checkpoint, options: CoreAIOptions) -> tuple[np.ndarray, int]:
    """Return x0 of a frame, and the bytes of the program."""
    built = find_or_build(checkpoint, options)
    runner = Runner(built, checkpoint, options, "cpu")
    try:
        runner.set_conditioning(states(checkpoint))
        return runner.run(picture())["x0"].copy(), size_bytes(built.source("frame"))
    finally:
        runner.close()


# Inputs and outputs


def test_inputs_are_written_in_place_and_copies_give_the_same(
    demo: Checkpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object) -> np.ndarray:
        raise BufferError

    made: list[list[np.ndarray]] = []
    for in_place in (True, False):
        if not in_place:
            monkeypatch.setattr(runner_module, "writable", refused)
        backend = opened(demo)
        facts = dict(backend.describe().facts)
        assert facts["inputs"] == ("written in place" if in_place else "copied")
        made.append(session(backend, demo))
    assert all(map(np.array_equal, *made))
    assert len({each.tobytes() for each in made[0]}) == len(made[0]), "a change was not seen"


def session(backend: Backend, checkpoint: Checkpoint) -> list[np.ndarray]:
    """Frames with a change of each input between them."""
    made = [render(backend, picture())]
    backend.set_params(FrameParams(1, 0.5))
    made.append(render(backend, picture()))
    backend.set_conditioning(states(checkpoint, 1))
    made.append(render(backend, picture(1)))
    backend.set_params(FrameParams(2, 0.7))
    made.append(render(backend, picture(1)))
    backend.set_params(FrameParams(2, 0.7, text_only=True))
    return [*made, render(backend, picture(1))]


@pytest.mark.slow
def test_copies_give_the_same_under_control(
    sketched: Checkpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[np.ndarray]] = []
    for _ in range(2):
        backend = opened(sketched)
        backend.set_params(FrameParams(1, 0.5, control_scale=0.7))
        made.append([render(backend, picture(), edges(n)) for n in range(2)])
        monkeypatch.setattr(runner_module, "writable", np.frombuffer)  # refuses
    assert all(map(np.array_equal, *made)) and off(*made[0]) > 1


def test_a_picture_stays_while_later_ones_are_made(demo: Checkpoint, opened: Open) -> None:
    """Outputs are views of Core AI's memory."""
    backend = opened(demo)
    expected = [render(backend, picture(seed)) for seed in range(3)]
    for seed in range(3):
        backend.submit(picture(seed))
    for seed in range(3):
        out = np.empty_like(expected[0])
        backend.collect(out)
        assert np.array_equal(out, expected[seed])
    assert not np.array_equal(expected[0], expected[1])


def test_a_frame_that_is_not_finite_is_an_error_and_forgotten(
    demo: Checkpoint, opened: Open
) -> None:
    backend = opened(demo)
    backend.set_params(FrameParams(3, 0.5))
    first = render(backend, picture())
    backend.set_conditioning(np.copysign(OVERFLOWS, states(demo)))
    backend.submit(picture())
    with pytest.raises(PictureError, match="not finite.*weights verify"):
        backend.collect(np.empty_like(first))
    backend.set_conditioning(states(demo))
    assert np.array_equal(render(backend, picture()), first), "its x0 is in a later frame"


def test_a_picture_of_one_colour_is_an_error_and_forgotten(
    demo: Checkpoint, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(demo)
    backend.set_params(FrameParams(3, 0.5))
    first = render(backend, picture())
    right = Runner.run

    def black(self: Runner, *given: np.ndarray) -> dict[str, np.ndarray]:
        return right(self, *given) | {"image": np.zeros_like(first)}

    monkeypatch.setattr(Runner, "run", black)
    backend.submit(picture())
    with pytest.raises(PictureError, match="black throughout"):
        backend.collect(np.empty_like(first))
    monkeypatch.setattr(Runner, "run", right)
    assert np.array_equal(render(backend, picture()), first)


# The protocol


def test_a_backend_that_is_not_loaded_says_so(demo: Checkpoint) -> None:
    backend = CoreAIBackend(demo, OPTIONS)
    calls: Sequence[Callable[[], object]] = (
        lambda: backend.submit(picture()),
        lambda: backend.collect(picture()),
        lambda: backend.set_params(FrameParams()),
        lambda: backend.set_conditioning(states(demo)),
    )
    for call in calls:
        with pytest.raises(BackendError, match="not loaded"):
            call()
    backend.close()
    assert backend.memory().model_bytes == 0


def test_what_does_not_fit_is_an_error_and_the_backend_goes_on(
    demo: Checkpoint, opened: Open
) -> None:
    backend = opened(demo)
    first = render(backend, picture())
    with pytest.raises(BackendError, match=r"\(96, 96, 3\)"):
        backend.submit(picture(size=96))
    with pytest.raises(BackendError, match="float32"):
        backend.submit(picture().astype(np.float32))
    with pytest.raises(BackendError, match=r"\(1, 77, 3\)"):
        backend.set_conditioning(states(demo)[..., :3])
    with pytest.raises(BackendError, match="no ControlNet"):
        backend.set_params(FrameParams(control_scale=0.5))
    with pytest.raises(BackendError, match="without a submitted frame"):
        backend.collect(np.empty_like(first))
    assert np.array_equal(render(backend, picture()), first)


def test_the_description_says_that_it_stands_in(demo: Checkpoint, opened: Open) -> None:
    said = opened(demo).describe()
    assert said.stand_in == "Apple's CPU runtime, one core"
    assert (said.backend, said.device, said.dtype) == ("coreai", "CPU", "float32")
    assert "no speed of Core AI" in dict(said.facts)["runtime"]
    assert dict(said.facts)["attention"] == "split_einsum"
    assert dict(said.facts)["weights"] == "float32"


def test_a_closed_backend_loads_again(demo: Checkpoint, opened: Open) -> None:
    backend = opened(demo)
    first = render(backend, picture())
    backend.close()
    backend.close()
    backend.load()
    backend.set_conditioning(states(demo))
    assert np.array_equal(render(backend, picture()), first)


def test_frames_of_several_steps_are_refused(demo: Checkpoint) -> None:
    several = replace(demo, frame=replace(demo.frame, steps=2))
    with pytest.raises(UsageError, match="--steps 2.*one step"):
        CoreAIBackend(several, OPTIONS)


def test_another_thread_runs_during_a_call(demo: Checkpoint, opened: Open) -> None:
    """A call that held Python's lock would let it run at the begin and the end only."""
    backend, count, ended = opened(demo), [0], threading.Event()
    noted: list[int] = []

    def run() -> None:
        while not ended.is_set():
            count[0] += 1

    right = Runner._wait

    def wait(self: Runner, call: object) -> object:
        noted.append(count[0])
        made = right(self, call)  # type: ignore[arg-type]
        noted.append(count[0])
        return made

    other = threading.Thread(target=run, daemon=True)
    other.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Runner, "_wait", wait)
            render(backend, picture())
    finally:
        ended.set()
        other.join()
    before, after = noted
    assert after - before > 10_000  # some 10 million a second without a lock


# The end of a process

SESSION = """
import sys
from pathlib import Path

import numpy as np
from sdxs.common.checkpoint.find import find
from sdxs.coreai_backend.cache import Built
from sdxs.coreai_backend.options import CoreAIOptions
from sdxs.coreai_backend.runner import Runner

options = CoreAIOptions(32, dtype="float32")
runner = Runner(Built(Path(sys.argv[1])), find("demo", download=False), options, "cpu")
runner.run(np.zeros((32, 32, 3), np.uint8))
runner.close()
"""


@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_process_ends_clean(demo: Checkpoint, times: int) -> None:
    """Apple's runtime aborted 2 of 8 processes that ended while a model was alive."""
    folder = find_or_build(demo, OPTIONS).folder
    for _ in range(times):
        command = [sys.executable, "-c", SESSION, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
