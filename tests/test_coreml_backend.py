"""The Core ML backend on the interpreter: cache, gate, and calls into a strict fake of Core ML."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest

from command import Command
from fake_coreml import StrictModel
from sdxs.common.backend.protocol import FrameParams
from sdxs.common.checkpoint.find import Checkpoint
from sdxs.common.errors import BackendError, UsageError
from sdxs.common.io.sources.film import VideoFile
from sdxs.common.picture.temporal import psnr
from sdxs.common.prompt.text_encoder import TextEncoder
from sdxs.common.settings import parse_settings
from sdxs.coreml_backend import cache
from sdxs.coreml_backend.backend import CoreMLBackend
from sdxs.coreml_backend.options import CoreMLOptions
from sdxs.coreml_backend.prepare import find_or_build
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "docs" / "demo" / "clip.mp4"
SIZE = 64
REFERENCE = CoreMLOptions(SIZE, runtime="reference")

# what is around the programs is tested here: each is built once a run
pytestmark = pytest.mark.usefixtures("built_once")


@pytest.fixture(scope="module")
def shared_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(autouse=True)
def own_cache(shared_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build into a folder of the test's own; the demo checkpoint is found in the package."""
    monkeypatch.setenv("SDXS_WEIGHTS", str(shared_weights))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDXS_WEIGHTS", str(tmp_path))
    return tmp_path / "coreml"


def picture(seed: int = 0) -> np.ndarray:
    """A smooth random picture, uint8 (64, 64, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    return np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture
def coreml(demo: Checkpoint) -> Iterator[CoreMLBackend]:
    made = CoreMLBackend(demo, REFERENCE)
    made.load()
    yield made
    made.close()


def render(backend: CoreMLBackend | MlxBackend, frame: np.ndarray) -> np.ndarray:
    out = np.empty_like(frame)
    backend.submit(frame)
    assert backend.collect(out).total_ns > 0
    return out


def test_equals_mlx_on_the_demo_checkpoint(coreml: CoreMLBackend, demo: Checkpoint) -> None:
    mlx, encoder = MlxBackend(demo, MlxOptions(SIZE)), TextEncoder(demo)
    mlx.load()
    for number, prompt in enumerate(("a pencil sketch", "neon cyberpunk city")):
        for backend in (coreml, mlx):
            backend.set_conditioning(encoder.encode(prompt))
        assert psnr(render(coreml, picture(number)), render(mlx, picture(number))) > 45
    mlx.close()


def test_feedback_equals_mlx_frame_after_frame(coreml: CoreMLBackend, demo: Checkpoint) -> None:
    mlx, encoder = MlxBackend(demo, MlxOptions(SIZE)), TextEncoder(demo)
    mlx.load()
    for backend in (coreml, mlx):
        backend.set_conditioning(encoder.encode("dark fantasy"))
        backend.set_params(FrameParams(feedback=0.5))
    pictures = [(render(coreml, picture(n)), render(mlx, picture(n))) for n in range(3)]
    assert all(psnr(*pair) > 45 for pair in pictures)
    coreml.set_params(FrameParams())
    assert psnr(render(coreml, picture(2)), pictures[2][0]) < 45, "feedback made no difference"
    mlx.close()


def test_clip_to_video_names_the_interpreter(command: Command, tmp_path: Path) -> None:
    out, stats = tmp_path / "out.mp4", tmp_path / "stats.json"
    done = command(
        "live",
        "--backend",
        "coreml",
        "--coreml-runtime",
        "reference",
        "--model",
        "demo",
        "--size",
        SIZE,
        "--source",
        CLIP,
        "--frames",
        4,
        "--headless",
        "--out",
        out,
        "--stats",
        stats,
    )
    assert done.code == 0, done.err
    assert "NOT Core ML" in done.out and "NOT Core ML" in stats.read_text()
    assert VideoFile(out).length == 4


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
def test_without_macos_one_clear_line(command: Command, tmp_path: Path) -> None:
    done = command(
        "live", "--backend", "coreml", "--model", "demo", "--headless", "--out", tmp_path / "o.mp4"
    )
    assert (
        done.code == 2
        and "Core ML needs macOS" in done.err
        and "--coreml-runtime reference" in done.err
    )
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"runtime": "fast"}, "coreml:runtime=fast: expected one of coreml, pyobjc, reference"),
        ({"attention": "flash"}, "coreml:attention=flash"),
        ({"colour": "red"}, "unknown setting 'colour'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_settings(CoreMLOptions, settings, "coreml", size=SIZE)
    with pytest.raises(UsageError, match="--coreml-runtime fast"):
        CoreMLOptions(SIZE, runtime="fast")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="programs compute in float16"):
        CoreMLOptions(SIZE, dtype="float32")  # type: ignore[arg-type]


def test_second_start_finds_the_program(demo: Checkpoint, empty_cache: Path) -> None:
    options = REFERENCE
    first = find_or_build(demo, options)
    second = find_or_build(demo, options)
    assert (first.news, second.news) == ("not built before", "") and first.folder == second.folder
    assert find_or_build(demo, options, force=True).news == "asked to build it again"
    other = find_or_build(demo, CoreMLOptions(SIZE, runtime="reference", attention="matmul"))
    assert other.folder != first.folder


@pytest.mark.parametrize("where", ["weight.bin", "model.mlmodel"])
def test_a_package_damaged_by_one_byte_is_rebuilt_and_said(
    demo: Checkpoint, empty_cache: Path, where: str
) -> None:
    options = REFERENCE
    built = find_or_build(demo, options)
    file = next(built.package("frame").rglob(where))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    again = find_or_build(demo, options)
    assert again.news == f"{where} is damaged" and find_or_build(demo, options).news == ""


def test_an_interrupted_build_leaves_nothing(
    demo: Checkpoint, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxs.coreml_backend import program

    def interrupted(_checkpoint: object, _variant: object, path: Path, _progress: object) -> None:
        path.mkdir()
        (path / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "build", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_or_build(demo, REFERENCE)
    assert not list(empty_cache.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(
    demo: Checkpoint, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxs.coreml_backend import program

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(program, "build", full)
    with pytest.raises(BackendError, match="No space left.*SDXS_WEIGHTS"):
        find_or_build(demo, REFERENCE)
    assert not list(empty_cache.iterdir())


def test_the_gate_refuses_a_program_that_renders_something_else(
    demo: Checkpoint, empty_cache: Path
) -> None:
    def wrong(frame: np.ndarray, _states: np.ndarray, _seed: int) -> np.ndarray:
        return 255 - frame

    with pytest.raises(BackendError, match="dB from the reference"):
        find_or_build(demo, REFERENCE, wrong)
    assert sorted(p.name for p in empty_cache.iterdir()) == [
        "refused-demo-program.png",
        "refused-demo-reference.png",
    ]


def test_calls_into_core_ml_keep_its_rules(
    demo: Checkpoint, on_macos: list[str], empty_cache: Path
) -> None:
    on_ne = CoreMLOptions(SIZE, compute_units="cpu_and_ne", attention="matmul")
    backend = CoreMLBackend(demo, on_ne)
    backend.load()
    first = render(backend, picture())
    for number in range(3):
        render(backend, picture(number))
    backend.submit(picture())
    times = backend.collect(first.copy())
    assert 0 < times.bridge_ns < times.total_ns
    assert StrictModel.made[0].compute_unit == ct.ComputeUnit.CPU_AND_NE
    backend.close()
    again = CoreMLBackend(demo, replace(on_ne, compute_units=None))
    again.load()
    np.testing.assert_array_equal(render(again, picture()), first)
    assert len(on_macos) == 1, "the compiled model is kept for the second start"


def test_a_prediction_error_is_one_line(demo: Checkpoint, on_macos: list[str]) -> None:
    backend = CoreMLBackend(demo, CoreMLOptions(SIZE))
    backend.load()
    StrictModel.fails = True
    with pytest.raises(BackendError, match="prediction failed.*sdxs convert --force"):
        backend.submit(picture())


def test_protocol_manners(coreml: CoreMLBackend, demo: Checkpoint) -> None:
    with pytest.raises(BackendError, match="without a submitted frame"):
        coreml.collect(picture())
    with pytest.raises(BackendError, match="not finite"):
        coreml.set_conditioning(np.full((1, 77, demo.unet.cross_attention_dim), np.nan, np.float32))
    frame = picture()
    given = frame.copy()
    assert (render(coreml, frame) == render(coreml, given)).all()
    coreml.close()
    coreml.close()
    with pytest.raises(BackendError, match="not loaded"):
        coreml.submit(frame)
    with pytest.raises(BackendError, match="not loaded"):
        CoreMLBackend(demo, REFERENCE).submit(frame)


@pytest.mark.not_in_macos_shape(reason="on macOS Core ML compiles what convert has built")
def test_convert_builds_lists_and_repeats(command: Command, empty_cache: Path) -> None:
    built = command("convert", "--model", "demo", "--size", SIZE)
    assert built.code == 0 and "is ready" in built.out and "not built before" in built.err
    assert "demo" in command("convert", "--list").out
    assert (
        command("convert", "--model", "demo", "--size", SIZE, "--force").err.count(
            "asked to build it again"
        )
        == 1
    )
    assert command("convert", "--model", "demo", "--weights", "float8").code == 2


def test_key_changes_with_everything_that_is_built_from(
    demo: Checkpoint, tiny_sdxs: Checkpoint
) -> None:
    keys = [
        cache.key(checkpoint, variant, library)
        for checkpoint, variant, library in itertools.product(
            (demo, tiny_sdxs), ({"size": "64"}, {"size": "128"}), ("9.0", "9.1")
        )
    ]
    assert len(set(keys)) == len(keys)
    assert cache.key(demo, {"size": "64"}, "9.0") == keys[0]
