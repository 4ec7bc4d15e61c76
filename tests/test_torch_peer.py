"""The torch peer (extra `parity`): MLX's picture, in every form that runs here."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the parity extra is not installed")
pytest.importorskip("diffusers", reason="the parity extra is not installed")

from sdxs.common.backend.protocol import FrameParams, MemoryUse
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.picture.size import FrameSize
from sdxs.common.settings import parse_settings
from sdxs.experiments.peers.options import TorchOptions
from sdxs.experiments.peers.torch_backend import MODES, TorchBackend
from sdxs.experiments.peers.torch_instrument import TorchInstrument
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 64


@pytest.fixture
def prompt() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 77, 64)).astype(np.float32)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def rendered(
    tiny_sdxs: Checkpoint, prompt: np.ndarray, picture: np.ndarray
) -> Iterator[np.ndarray]:
    backend = MlxBackend(tiny_sdxs, MlxOptions(SIZE))
    backend.load()
    yield _render(backend, prompt, picture)
    backend.close()


def _render(
    backend: MlxBackend | TorchBackend, prompt: np.ndarray, picture: np.ndarray
) -> np.ndarray:
    backend.set_conditioning(prompt)
    backend.set_params(FrameParams(3))
    out = np.empty_like(picture)
    backend.submit(picture)
    assert backend.collect(out).total_ns > 0
    return out


def _made(checkpoint: Checkpoint, mode: str) -> TorchBackend:
    return TorchBackend(checkpoint, TorchOptions(SIZE, dtype="float32", mode=mode))


def test_the_same_picture_as_mlx_where_it_is_not_square(
    tiny_sdxs: Checkpoint, prompt: np.ndarray
) -> None:
    size = FrameSize(96, 64)
    given = np.random.default_rng(2).integers(0, 256, (*size.shape, 3), dtype=np.uint8)
    made = []
    for backend in (
        TorchBackend(tiny_sdxs, TorchOptions(size, dtype="float32")),
        MlxBackend(tiny_sdxs, MlxOptions(size)),
    ):
        backend.load()
        made.append(_render(backend, prompt, given))
        backend.close()
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1


@pytest.mark.parametrize("mode", ["eager", "channels_last"])
def test_the_same_picture_as_mlx(
    mode: str, tiny_sdxs: Checkpoint, prompt: np.ndarray, picture: np.ndarray, rendered: np.ndarray
) -> None:
    backend = _made(tiny_sdxs, mode)
    backend.load()
    other = _render(backend, prompt, picture)
    # one level, where the two round a value in the middle differently
    assert np.abs(other.astype(int) - rendered.astype(int)).max() <= 1
    assert ("mode", mode) in backend.describe().facts and backend.memory().model_bytes > 1_000_000
    stages = TorchInstrument().profile(backend, picture, 2)
    assert list(stages) == ["in", "encode", "unet", "decode", "out"] and all(
        len(times) == 2 for times in stages.values()
    )
    backend.close()
    assert backend.memory().model_bytes == 0


@pytest.mark.parametrize("mode", [name for name, (_, _, graphed) in MODES.items() if graphed])
def test_a_graph_needs_cuda(mode: str, tiny_sdxs: Checkpoint) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    with pytest.raises(UsageError, match="needs CUDA"):
        _made(tiny_sdxs, mode)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mode": "fast"}, "torch:mode=fast: expected one of eager"),
        ({"batch": "4", "depth": "2"}, "torch: depth 2: no batch of 4 would ever be full"),
        (
            {"colour": "red"},
            "torch: unknown setting 'colour'; known are dtype, mode, batch, depth, cudnn",
        ),
    ],
)
def test_unknown_settings_are_refused(settings: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_settings(TorchOptions, settings, "torch", size=SIZE)


def test_cudnn_times_its_convolutions_only_where_it_is_asked_to(
    tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The switch is one of the process: a peer that does not ask leaves it alone."""
    import torch

    switch = torch.backends.cudnn
    monkeypatch.setattr(switch, "benchmark", False)  # and as it was afterwards
    plain, asked = (
        TorchOptions(SIZE, dtype="float32", mode="eager", cudnn_benchmark=on)
        for on in (False, True)
    )
    backend = TorchBackend(tiny_sdxs, plain)
    backend.load()
    assert switch.benchmark is False and "cudnn benchmark" not in dict(backend.describe().facts)
    backend.close()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="cudnn_benchmark needs CUDA; there is only"):
        TorchBackend(tiny_sdxs, asked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backend = TorchBackend(tiny_sdxs, asked)
    backend.device = "cpu"  # there is none: only the switch is looked at
    backend.load()
    assert switch.benchmark is True
    assert ("cudnn benchmark", "on") in backend.describe().facts
    backend.close()


@pytest.mark.parametrize(("held", "cache"), [(900, 600), (200, 0)])
def test_on_mps_the_account_is_pytorchs_own(
    held: int, cache: int, tiny_sdxs: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    backend = _made(tiny_sdxs, "eager")
    backend.load()
    of_the_model = backend.memory().model_bytes
    backend.device = "mps"
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 300)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: held)
    assert backend.memory() == MemoryUse(300, held, cache, of_the_model) and of_the_model > 0
    backend.device = "cpu"
    backend.close()
    assert backend.memory() == MemoryUse(0, 0, 0, 0)


def test_what_the_peer_cannot_is_refused(
    tiny_sdxs: Checkpoint, picture: np.ndarray, tmp_path: Path
) -> None:
    backend = _made(tiny_sdxs, "eager")
    backend.load()
    with pytest.raises(UsageError, match="no latent feedback"):
        backend.set_params(FrameParams(0, 0.5))
    with pytest.raises(BackendError, match="without a submitted frame"):
        backend.collect(picture)
    backend.submit(picture)
    with pytest.raises(BackendError, match="1 of 1 frames are in flight"):
        backend.submit(picture)


@pytest.mark.parametrize(("depth", "batch"), [(None, 1), (3, 1), (None, 2), (2, 2), (5, 2), (9, 4)])
def test_frames_in_flight_and_batches_change_no_picture(
    tiny_sdxs: Checkpoint, prompt: np.ndarray, depth: int | None, batch: int
) -> None:
    """Another prompt from the eighth frame on; the last frames fill no batch."""
    given = np.random.default_rng(4).integers(0, 256, (11, SIZE, SIZE, 3), dtype=np.uint8)
    alone = _stream(tiny_sdxs, TorchOptions(SIZE, dtype="float32"), prompt, given)
    options = TorchOptions(SIZE, dtype="float32", depth=depth, batch=batch)
    made = _stream(tiny_sdxs, options, prompt, given)
    # sums in another order move a value in the middle between two levels
    assert np.abs(alone.astype(int) - made.astype(int)).max() <= 1
    assert not np.array_equal(alone[6], alone[7])


class Marks:
    """An event that tells how often it was waited for."""

    def __init__(self) -> None:
        self.recorded, self.waited = 0, 0

    def record(self) -> None:
        self.recorded += 1

    def synchronize(self) -> None:
        self.waited += 1


def test_a_picture_waits_for_its_own_work_alone(
    tiny_sdxs: Checkpoint, prompt: np.ndarray, picture: np.ndarray
) -> None:
    """Whoever waits for the whole device waits for the frames behind it, too."""
    backend = TorchBackend(tiny_sdxs, TorchOptions(SIZE, dtype="float32", depth=2))
    backend.load()
    backend.set_conditioning(prompt)
    marks = [Marks() for _ in backend._slots]
    for slot, mark in zip(backend._slots, marks, strict=True):
        slot.done = mark
    backend.submit(picture)
    backend.submit(picture)
    assert [mark.recorded for mark in marks] == [1, 1] and not any(m.waited for m in marks)
    backend.collect(np.empty_like(picture))
    assert [mark.waited for mark in marks] == [1, 0]
    backend.close()


def _stream(
    checkpoint: Checkpoint, options: TorchOptions, prompt: np.ndarray, given: np.ndarray
) -> np.ndarray:
    """Render pictures as a loop does, as many in flight as the backend takes."""
    backend = TorchBackend(checkpoint, options)
    backend.load()
    backend.set_conditioning(prompt)
    backend.set_params(FrameParams(3))
    facts = dict(backend.describe().facts)
    assert facts["in flight"] == str(backend.depth) and facts["batch"] == str(options.batch)
    assert backend.depth == options.depth or options.depth is None
    made, waiting = [], 0

    def collect() -> None:
        made.append(np.empty_like(given[0]))
        backend.collect(made[-1])

    for number, picture in enumerate(given):
        if number == 7:
            backend.set_conditioning(-prompt)
        backend.submit(picture)
        waiting += 1
        if waiting == backend.depth:
            collect()
            waiting -= 1
    for _ in range(waiting):
        collect()
    backend.close()
    return np.stack(made)


def test_prompts_that_break_every_batch_off_lose_no_frame(
    tiny_sdxs: Checkpoint, prompt: np.ndarray
) -> None:
    given = np.random.default_rng(5).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    backend = TorchBackend(tiny_sdxs, TorchOptions(SIZE, dtype="float32", depth=4, batch=4))
    backend.load()
    for number, picture in enumerate(given):
        backend.set_conditioning(prompt * number)
        backend.submit(picture)
    with pytest.raises(BackendError, match="4 of 4 frames are in flight"):
        backend.submit(given[0])
    for number, picture in enumerate(given):
        out, wanted = np.empty_like(picture), np.empty_like(picture)
        backend.collect(out)
        other = TorchBackend(tiny_sdxs, TorchOptions(SIZE, dtype="float32"))
        other.load()
        other.set_conditioning(prompt * number)
        other.submit(picture)
        other.collect(wanted)
        assert np.abs(out.astype(int) - wanted.astype(int)).max() <= 1
