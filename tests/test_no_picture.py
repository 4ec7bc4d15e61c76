"""What is no picture: an error of the API, one warning in a session, and nothing remembers it.

A frame whose first pixel is `MARK` stands for one on which numbers overflow.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from command import Command
from fake_backends import SpoiltBackend
from sdxs.common.backend.kept import KeptBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.process.hosted import HostedBackend
from sdxs.common.backend.protocol import Backend, FrameParams, check_picture
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import PictureError, SdxsWarning
from sdxs.common.io.sources.synthetic import Synthetic
from sdxs.common.live.stats import Summary
from sdxs.common.live.threads.loop import Loop, LoopOptions, Prompt
from sdxs.coreml_backend import backend as coreml_module
from sdxs.coreml_backend.backend import CoreMLBackend
from sdxs.coreml_backend.options import CoreMLOptions
from sdxs.coreml_backend.runner import Runner
from sdxs.coreml_backend.stages import StagesBackend
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.frame import Frame
from sdxs.mlx_sdxs.options import MlxOptions

SIZE = 64
MARK = 137


def picture(number: int, marked: bool = False) -> np.ndarray:
    """A random picture, uint8 (64, 64, 3)."""
    made = np.random.default_rng(number).integers(0, 128, (SIZE, SIZE, 3), dtype=np.uint8)
    made[0, 0] = MARK if marked else 0
    return made


BLACK = np.zeros((SIZE, SIZE, 3), np.uint8)
TEAL = np.full_like(BLACK, 0) + np.array([0, 128, 128], np.uint8)
CAPPED = np.random.default_rng(0).integers(0, 8, BLACK.shape, dtype=np.uint8)
ONE_PIXEL = BLACK.copy()
ONE_PIXEL[3, 5, 2] = 1


@pytest.mark.parametrize(
    ("rendered", "given", "finite", "message"),
    [
        (picture(0), picture(1), True, ""),
        (picture(0), picture(1), False, "not finite.*do this"),
        (BLACK, picture(1), True, "is black throughout.*do this"),
        (TEAL, picture(1), True, r"of one colour, \(0, 128, 128\), throughout"),
        (TEAL, None, True, "of one colour"),
        (TEAL, BLACK, True, ""),
        (BLACK, CAPPED, True, ""),
        (ONE_PIXEL, picture(1), True, ""),
    ],
)
def test_what_is_no_picture(
    rendered: np.ndarray, given: np.ndarray | None, finite: bool, message: str
) -> None:
    found = ""
    try:
        check_picture("x", rendered, given, finite, "do this")
    except PictureError as error:
        found = str(error)
    assert bool(found) == bool(message) and re.search(message, found)


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's graph gives one NaN latent for a marked frame."""
    encode = Frame.encode

    def planted(self: Frame, given: mx.array) -> mx.array:
        latents = encode(self, given)
        marked = given.reshape(-1, *given.shape[-3:])[:, 0, 0, 0] == MARK
        place = mx.arange(latents.size // latents.shape[0]).reshape(1, *latents.shape[1:]) == 0
        return mx.where(marked[:, None, None, None] & place, mx.array(float("nan")), latents)

    monkeypatch.setattr(Frame, "encode", planted)


def rendered(backend: Backend, frames: Sequence[np.ndarray], at_once: int = 1) -> list[object]:
    """Pictures, or the PictureError in the place of one; `at_once` frames in flight."""
    found: list[object] = []
    for number in range(len(frames) + at_once - 1):
        if number < len(frames):
            backend.submit(frames[number])
        if number >= at_once - 1:
            out = np.empty_like(frames[0])
            try:
                backend.collect(out)
                found.append(out)
            except PictureError as error:
                found.append(error)
    return found


def conditioned(backend: Backend, checkpoint: Checkpoint, params: FrameParams) -> None:
    width = checkpoint.unet.cross_attention_dim
    backend.set_conditioning(
        np.random.default_rng(1).standard_normal((1, 77, width), dtype=np.float32)
    )
    backend.set_params(params)


@pytest.mark.parametrize(("lanes", "batch"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.usefixtures("overflowing")
def test_mlx_notices_it_and_does_not_mix_it_into_the_next(
    demo: Checkpoint, lanes: int, batch: int
) -> None:
    backend = MlxBackend(demo, MlxOptions(SIZE, lanes=lanes, batch=batch))
    backend.load()
    conditioned(backend, demo, FrameParams(feedback=0.6))
    first, bad, third, fourth = rendered(
        backend, [picture(0), picture(1, True), picture(2), picture(3)], backend.depth
    )
    assert isinstance(bad, PictureError) and "not finite" in str(bad) and "verify" in str(bad)
    conditioned(backend, demo, FrameParams(feedback=0.0))
    plain = rendered(backend, [picture(0), picture(2), picture(3)])
    conditioned(backend, demo, FrameParams(feedback=0.6))
    backend.close()
    np.testing.assert_array_equal(third, plain[1], "the frame after it starts anew")
    assert np.abs(np.asarray(fourth, int) - np.asarray(plain[2], int)).max() > 0, "feedback is off"
    assert isinstance(first, np.ndarray)


@pytest.mark.usefixtures("overflowing")
def test_one_bad_frame_of_a_batch_leaves_the_others(demo: Checkpoint) -> None:
    backend = MlxBackend(demo, MlxOptions(SIZE, lanes=1, batch=4, depth=4))
    backend.load()
    conditioned(backend, demo, FrameParams())
    found = rendered(backend, [picture(n, n == 2) for n in range(4)], 4)
    backend.close()
    assert [isinstance(each, PictureError) for each in found] == [False, False, True, False]


def test_a_black_picture_of_mlx_is_forgotten(
    demo: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = Frame._image

    def dark(self: Frame, x0: mx.array) -> mx.array:
        return decode(self, x0) * mx.array(0.0) - 1

    backend = MlxBackend(demo, MlxOptions(SIZE, lanes=1))
    backend.load()
    conditioned(backend, demo, FrameParams(feedback=0.6))
    (alone,) = rendered(backend, [picture(5)])
    backend.close()
    monkeypatch.setattr(Frame, "_image", dark)
    backend.load()
    conditioned(backend, demo, FrameParams(feedback=0.6))
    (bad,) = rendered(backend, [picture(4)])
    assert isinstance(bad, PictureError) and "black" in str(bad)
    monkeypatch.setattr(Frame, "_image", decode)
    (after,) = rendered(backend, [picture(5)])
    backend.close()
    np.testing.assert_array_equal(after, alone)


class Overflowing:
    """A runtime whose x0, or decoded picture, is not finite for a marked frame or latents."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def predict(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = dict(data)
        if "latents" in data and data["latents"].min() == 300:
            given["latents"] = np.zeros_like(data["latents"])  # the interpreter would overflow
        outputs = dict(self._inner.predict(given))  # type: ignore[attr-defined]
        if "picture" in data and np.asarray(data["picture"])[0, 0, 0, 0] == MARK:
            for name in ("x0", "latents"):
                if name in outputs:
                    outputs[name] = np.full_like(
                        outputs[name], 300 if name == "latents" else np.nan
                    )
        if "latents" in data and data["latents"].min() == 300:
            outputs["x0"] = np.full_like(outputs["x0"], np.nan)
        return outputs


@pytest.fixture
def in_one_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Core ML's stages run here, on a runtime that overflows for marked frames."""
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path_factory.mktemp("weights")))
    begin = Runner.__init__

    def planted(self: Runner, stage: object, model: object, *more: object) -> None:
        begin(self, stage, Overflowing(model), *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Runner, "__init__", planted)
    monkeypatch.setattr(
        coreml_module,
        "HostedBackend",
        lambda name, location, checkpoint, options, *planes: StagesBackend(checkpoint, options),
    )
    yield


@pytest.mark.usefixtures("built_once", "in_one_process")
@pytest.mark.parametrize("placement", [(), ("ne", "gpu", "ne")], ids=["whole", "three stages"])
def test_coreml_notices_it_and_does_not_mix_it_into_the_next(
    demo: Checkpoint, placement: tuple[str, ...]
) -> None:
    options = CoreMLOptions(SIZE, runtime="reference", placement=placement)  # type: ignore[arg-type]
    backend = CoreMLBackend(demo, options)
    backend.load()
    conditioned(backend, demo, FrameParams(feedback=0.6))
    frames = [picture(0), picture(1, True), picture(2), picture(3)]
    first, bad, third, fourth = rendered(backend, frames)
    assert isinstance(bad, PictureError) and "latents are not finite" in str(bad)
    conditioned(backend, demo, FrameParams())
    plain = rendered(backend, [picture(0), picture(2), picture(3)])
    in_flight = rendered(backend, frames, backend.depth)
    backend.close()
    np.testing.assert_array_equal(third, plain[1], "the frame after it starts anew")
    assert np.abs(np.asarray(fourth, int) - np.asarray(plain[2], int)).max() > 0, "feedback is off"
    assert isinstance(first, np.ndarray)
    assert [isinstance(each, PictureError) for each in in_flight] == [False, True, False, False]


def spoilt(*bad: int) -> SpoiltBackend:
    return SpoiltBackend(None, BackendOptions(SIZE), bad)


class Numbered(Synthetic):
    """Pictures 0, 1, 2, ... of a source that ends."""

    fps = 1000.0

    def __init__(self, count: int) -> None:
        super().__init__(SIZE)
        self._number, self._count = 0, count

    def read(self) -> np.ndarray | None:  # type: ignore[override]
        self._number += 1
        if self._number > self._count:
            return None
        return np.ascontiguousarray(picture(self._number - 1)[..., ::-1])  # BGR, as a camera's


def session(
    backends: Sequence[Backend], count: int, **settings: object
) -> tuple[list[tuple[np.ndarray, ...]], Summary, list[str]]:
    """Run a loop; return what it showed, its summary and the warnings."""
    options = LoopOptions(SIZE, **({"realtime": False, "skip_threshold": -1} | settings))  # type: ignore[arg-type]
    prompts = [Prompt("0", np.zeros((1, 77, 4), np.float32))]
    loop = Loop(Numbered(count), backends, options, prompts, FrameParams(), lambda text: BLACK)
    shown: list[tuple[np.ndarray, ...]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SdxsWarning)
        summary = loop.run(
            lambda frame: shown.append(tuple(each.copy() for each in frame.outputs)),
            lambda: None,
            lambda: None,
        )
    return shown, summary, [str(each.message) for each in caught]


@pytest.mark.parametrize("sequential", [False, True])
def test_a_session_warns_once_and_shows_the_last_good_picture(sequential: bool) -> None:
    shown, summary, said = session([spoilt(2, 3, 5)], 7, sequential=sequential)
    expected = [0, 1, 1, 1, 4, 4, 6]
    for (found,), number in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(found, picture(number))
    assert (summary.no_pictures, summary.inferred) == (3, 7)
    (warning,) = said
    assert "frame 2: spoilt" in warning and "do this" in warning and "last good picture" in warning


def test_of_two_backends_only_the_bad_one_stands_still() -> None:
    shown, summary, said = session([spoilt(2), spoilt()], 4)
    for (first, second), a, b in zip(shown, (0, 1, 1, 3), range(4), strict=True):
        np.testing.assert_array_equal(first, picture(a))
        np.testing.assert_array_equal(second, picture(b))
    assert summary.no_pictures == 1 and len(said) == 1


def test_a_file_without_a_good_picture_is_an_error_and_a_camera_shows_black() -> None:
    with pytest.raises(PictureError, match="do this"):
        session([spoilt(0)], 3)
    shown, summary, said = session([spoilt(0)], 3, realtime=True, sequential=True)
    np.testing.assert_array_equal(shown[0][0], BLACK)
    np.testing.assert_array_equal(shown[1][0], picture(1))
    assert summary.no_pictures == 1 and len(said) == 1


def test_no_similar_frame_repeats_what_stands_for_a_bad_one() -> None:
    class Same(Numbered):
        def read(self) -> np.ndarray | None:  # type: ignore[override]
            found = super().read()
            return None if found is None else np.ascontiguousarray(picture(0)[..., ::-1])

    backend = spoilt(0)
    options = LoopOptions(SIZE, realtime=True, sequential=False, skip_threshold=0)
    loop = Loop(
        Same(1), [backend], options, [Prompt("0", np.zeros((1, 77, 4), np.float32))],
        FrameParams(), lambda text: BLACK,
    )  # fmt: skip
    with pytest.warns(SdxsWarning, match="do this"):
        loop.run(lambda frame: None, lambda: None, lambda: None)
    assert not loop._renderer._similarity.is_similar(picture(0))


def test_a_kept_backend_goes_on() -> None:
    class Inner(SpoiltBackend):
        loads = 0

        def load(self) -> None:
            self.loads += 1
            super().load()

    inner = Inner(None, BackendOptions(SIZE), (0, 2))
    kept = KeptBackend(inner)  # type: ignore[arg-type]
    kept.load()
    bad, good = rendered(kept, [picture(0), picture(1)])
    assert isinstance(bad, PictureError) and isinstance(good, np.ndarray)
    kept.submit(picture(2))
    kept.close()  # the frame in flight is none either
    kept.load()
    assert inner.loads == 1 and not kept._in_flight


def test_it_comes_back_from_another_process() -> None:
    backend = HostedBackend("far", "fake_backends:FIRST_SPOILT", None, BackendOptions(SIZE))
    backend.load()
    bad, good = rendered(backend, [picture(0), picture(1)])
    backend.close()
    assert isinstance(bad, PictureError) and "spoilt" in str(bad)
    np.testing.assert_array_equal(good, picture(1))


@pytest.fixture
def broken(tiny_folder: Path) -> Path:
    """A checkpoint whose decoder has NaN in its last bias, which no check of names sees."""
    path = next((tiny_folder / "vae").glob("*.safetensors"))
    tensors = load_file(path)
    name = max(each for each in tensors if each.startswith("decoder") and each.endswith("bias"))
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, path, {"format": "pt"})
    return tiny_folder


def test_image_and_live_refuse_a_model_of_nan(
    command: Command, broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    for arguments in (
        ("image", "--prompt", "a cat", "--out", out),
        ("live", "--source", "synthetic", "--frames", 3, "--headless", "--out", out),
    ):
        done = command(*arguments, "--model", broken, "--size", SIZE)
        assert done.code == 1 and "not finite" in done.err and "weights verify" in done.err
        assert not out.exists() and "Traceback" not in done.err
