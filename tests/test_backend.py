"""The Backend protocol, as the MLX backend and the identity backend keep it."""

import gc
import inspect
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fake_backends import RefusingBackend, SleepingBackend, StagedBackend
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.protocol import Backend, FrameParams
from sdxs.common.bench.measure.passes import LentBackend
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.coreml_backend.backend import CoreMLBackend
from sdxs.coreml_backend.stages import StagesBackend
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 64


@pytest.fixture(params=["mlx", "identity"])
def backend(request: pytest.FixtureRequest, tiny_sdxs: Checkpoint) -> Iterator[Backend]:
    made: Backend = (MlxBackend if request.param == "mlx" else IdentityBackend)(
        tiny_sdxs, MlxOptions(SIZE)
    )
    made.load()
    yield made
    made.close()


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def states(seed: int = 0, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 77, width), dtype=np.float32)


def render(backend: Backend, frame: np.ndarray) -> np.ndarray:
    out = np.empty_like(frame)
    backend.submit(frame)
    assert backend.collect(out).total_ns > 0
    return out


def test_same_inputs_same_picture_and_frame_untouched(backend: Backend) -> None:
    frame = picture()
    backend.set_conditioning(states())
    first = render(backend, frame)
    np.testing.assert_array_equal(frame, picture())
    np.testing.assert_array_equal(render(backend, frame), first)


def test_frames_come_back_in_order(backend: Backend) -> None:
    backend.set_conditioning(states())
    expected = [render(backend, picture(seed)) for seed in range(3)]
    for seed in range(3):
        backend.submit(picture(seed))
    for seed in range(3):
        out = np.empty((SIZE, SIZE, 3), np.uint8)
        backend.collect(out)
        np.testing.assert_array_equal(out, expected[seed])


def test_frame_may_be_reused_after_collect_and_is_not_kept(backend: Backend) -> None:
    frame = picture()
    gone = weakref.ref(frame)
    render(backend, frame)
    del frame
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.float32),
        np.zeros((SIZE, 2 * SIZE, 3), np.uint8)[:, ::2],
        np.zeros((SIZE + 8, SIZE, 3), np.uint8),
    ],
    ids=["grey", "float", "strided", "wrong size"],
)
def test_wrong_frames_are_refused(backend: Backend, frame: np.ndarray) -> None:
    with pytest.raises(BackendError, match="expected contiguous uint8"):
        backend.submit(frame)


def test_collect_without_submit_is_refused(backend: Backend) -> None:
    with pytest.raises(BackendError, match="without a submitted frame"):
        backend.collect(picture())


def test_conditioning_is_checked_and_copied(backend: Backend) -> None:
    with pytest.raises(BackendError, match="float32"):
        backend.set_conditioning(states().astype(np.float64))
    with pytest.raises(BackendError, match="not finite"):
        backend.set_conditioning(np.full((1, 77, 64), np.nan, np.float32))
    given = states()
    backend.set_conditioning(given)
    before = render(backend, picture())
    given[:] = 0
    np.testing.assert_array_equal(render(backend, picture()), before)


def test_close_twice(backend: Backend) -> None:
    backend.close()
    backend.close()
    assert backend.memory().model_bytes == 0


@pytest.fixture
def mlx(tiny_sdxs: Checkpoint) -> Iterator[MlxBackend]:
    made = MlxBackend(tiny_sdxs, MlxOptions(SIZE))
    made.load()
    yield made
    made.close()


def test_prompt_and_seed_change_the_picture(mlx: MlxBackend) -> None:
    mlx.set_conditioning(states(0))
    first = render(mlx, picture())
    mlx.set_conditioning(states(1))
    assert (render(mlx, picture()) != first).any()
    mlx.set_conditioning(states(0))
    mlx.set_params(FrameParams(seed=1))
    assert (render(mlx, picture()) != first).any()
    mlx.set_params(FrameParams(seed=0))
    np.testing.assert_array_equal(render(mlx, picture()), first)


def test_conditioning_of_another_width_is_refused(mlx: MlxBackend) -> None:
    with pytest.raises(BackendError, match="expected float32"):
        mlx.set_conditioning(states(width=32))


def test_another_thread_is_refused_with_the_reason(mlx: MlxBackend) -> None:
    caught: list[BaseException] = []

    def use() -> None:
        try:
            mlx.submit(picture())
        except BackendError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert "another thread" in str(caught[0])


def test_a_worker_thread_may_load_render_and_close(tiny_sdxs: Checkpoint) -> None:
    done: list[np.ndarray] = []

    def work() -> None:
        made = MlxBackend(tiny_sdxs, MlxOptions(SIZE))
        made.load()
        done.append(render(made, picture()))
        made.close()

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(done[0], done[1])


def test_use_before_load_is_refused(tiny_sdxs: Checkpoint) -> None:
    with pytest.raises(BackendError, match="not loaded"):
        MlxBackend(tiny_sdxs, MlxOptions(SIZE)).submit(picture())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": 60}, "multiple of 32; the nearest is 64"),
        ({"size": 0}, "multiple of 32; the nearest is 32"),
        ({"size": SIZE, "dtype": "float64"}, "--dtype float64: expected one of auto, float32"),
    ],
)
def test_options_that_cannot_be(
    tiny_sdxs: Checkpoint, options: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        MlxBackend(tiny_sdxs, MlxOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_a_cpu_is_refused_with_the_reason(
    tiny_sdxs: Checkpoint, dtype: str
) -> None:
    from sdxs.mlx_sdxs import backend as module

    if module.on_gpu():
        pytest.skip("a GPU computes half precision")
    with pytest.raises(UsageError, match="slower than float32"):
        MlxBackend(tiny_sdxs, MlxOptions(SIZE, dtype=dtype))


def test_memory_names_the_weights(mlx: MlxBackend, tiny_sdxs: Checkpoint) -> None:
    stored = tiny_sdxs.unet_weights.stat().st_size + tiny_sdxs.vae_weights.stat().st_size
    memory = mlx.memory()
    held = stored if mlx.dtype_name == "float32" else stored / 2  # a GPU's default is float16
    assert memory.model_bytes == pytest.approx(held, rel=0.05)  # the files add a header of names
    assert memory.active_bytes >= memory.model_bytes
    mlx.close()
    assert mlx.memory().model_bytes == 0


def test_a_load_that_fails_in_a_thread_does_not_abort_the_process(tmp_path: Path) -> None:
    """Bug: MLX's streams stayed behind, and the interpreter aborted at exit in half of the runs."""
    script = f"""
import threading, sys
from pathlib import Path
from sdxs.common.checkpoint.find import open_checkpoint
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint
from sdxs.mlx_sdxs import backend as module
from sdxs.mlx_sdxs.options import MlxOptions
from sdxs.common.errors import WeightsError
folder = write_checkpoint(Path({str(tmp_path)!r}), tiny(architecture("sdxs-512-0.9")))
made = module.MlxBackend(open_checkpoint(folder), MlxOptions(64))
def fail(*_):
    raise WeightsError("planted")
module.load_vae = fail  # after the UNet has been evaluated
def work():
    try:
        made.load()
    except WeightsError:
        pass
    made.close()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def every_backend() -> list[type[Backend]]:
    """Backends, hosts and fakes; mypy holds each to the protocol."""
    optional: list[type[Backend]] = []
    with suppress(ModuleNotFoundError):  # the extra
        from sdxs.coreai_backend.backend import CoreAIBackend

        optional.append(CoreAIBackend)
    return [
        *optional,
        MlxBackend,
        IdentityBackend,
        HostedBackend,
        LentBackend,
        SleepingBackend,
        StagedBackend,
        RefusingBackend,
        StagesBackend,
        CoreMLBackend,
    ]


@pytest.mark.parametrize("kind", every_backend(), ids=lambda kind: kind.__name__)
def test_every_backend_has_the_protocols_signatures(kind: type[Backend]) -> None:
    """Bug: six of them had no `edges` in `submit`, and their callers bent around that."""
    for name, method in inspect.getmembers(Backend, inspect.isfunction):
        if not name.startswith("_"):
            expected = inspect.signature(method).parameters
            found = inspect.signature(getattr(kind, name)).parameters
            assert [(p.name, p.default) for p in found.values()] == [
                (p.name, p.default) for p in expected.values()
            ], f"{kind.__name__}.{name}"


def test_metals_winograd_is_off_unless_it_is_asked_for() -> None:
    """It rounds intermediates to float16: 64.7 dB become 46.0 at SDXS' size, emulated."""
    script = "import os, sdxs.mlx_sdxs; print(os.environ['MLX_CONV_WINOGRAD'])"
    for given, expected in (({}, "0"), ({"MLX_CONV_WINOGRAD": "1"}, "1")):
        environment = {k: v for k, v in os.environ.items() if k != "MLX_CONV_WINOGRAD"} | given
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert done.stdout.strip() == expected
