"""Fixtures: the demo checkpoint, tiny random checkpoints in the real layout, and the command."""

import gc
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from command import Command
from sdxs.common.backend.spec import specs
from sdxs.common.checkpoint.find import Checkpoint, find, open_checkpoint
from sdxs.common.io.sources import permission
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # on an M5, MLX's float32 is TF32 by default
specs()  # before a test imports MLX or OpenCV itself: a backend's package loads MLX's BLAS


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Encoded prompts of tests go into a folder of theirs, also those of child processes."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it runs in the background ignore Ctrl-C, and children inherit that; the
    # tests interrupt some.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def programs_are_checked_by_slow_tests_only(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """coremltools checks, and prints for its log, the program after each of its passes.

    That is half of the time of a build. Slow tests and users' builds keep both.
    """
    program = sys.modules.get("coremltools.converters.mil.mil.program")
    if program and not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(program.Program, "validate", lambda self, **_: None)
        monkeypatch.setattr(program.Program, "__str__", lambda self: "not printed in tests")


@pytest.fixture(scope="session", autouse=True)
def no_camera_is_asked_for() -> Iterator[None]:
    """macOS is never made to ask for a camera, nor waited for: cameras here are fakes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permission, "camera_permission", lambda: permission.Permission.ALLOWED)
        yield


@pytest.fixture(scope="session")
def demo() -> Checkpoint:
    return find("demo", download=False)


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A fresh tiny sdxs-512-0.9 on disk, for tests that damage it."""
    return write_checkpoint(tmp_path / "tiny", tiny(architecture("sdxs-512-0.9")))


@pytest.fixture(scope="session")
def tiny_sdxs(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny sdxs-512-0.9 that nobody writes to."""
    return open_checkpoint(
        write_checkpoint(tmp_path_factory.mktemp("tiny"), tiny(architecture("sdxs-512-0.9")))
    )


@pytest.fixture(scope="session")
def built_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Core ML programs that this run has built; workers of pytest-xdist share the folder."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def build_once(built_programs: Path) -> Callable[..., None]:
    """`program.build`, which copies what this run has already built of the same contents."""
    from sdxs.coreml_backend.program import Progress, Variant, build

    def build_or_copy(
        checkpoint: Checkpoint, variant: Variant, path: Path, progress: Progress | None = None
    ) -> None:
        checkpoint.check_size(variant.size)
        checkpoint.verify()
        kept = built_programs / f"{program_key(checkpoint, variant)}.mlpackage"
        if kept.exists():
            shutil.copytree(kept, path)
            return
        build(checkpoint, variant, path, progress)
        partial = built_programs / f"{kept.stem}.{os.getpid()}"
        shutil.copytree(path, partial)
        try:
            partial.rename(kept)
        except OSError:  # another worker was first
            shutil.rmtree(partial)

    return build_or_copy


@pytest.fixture
def built_once(build_once: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code under test build with `build_once`: for tests of what is around a program.

    Child processes build for themselves.
    """
    from sdxs.coreml_backend import program
    from sdxs.experiments.parity import coreml

    monkeypatch.setattr(program, "build", build_once)
    monkeypatch.setattr(coreml, "build", build_once)


def program_key(checkpoint: Checkpoint, variant: object) -> str:
    """Hash of all that a program is built from; independent of the cache that the tests check."""
    networks = (checkpoint.unet, checkpoint.vae, checkpoint.scheduler, checkpoint.frame)
    files = [checkpoint.unet_weights, checkpoint.vae_weights]
    if checkpoint.control:
        networks += (checkpoint.control.config,)
        files.append(checkpoint.control.weights)
    digest = hashlib.sha256(repr((checkpoint.name, variant, *networks)).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


@pytest.fixture(scope="module")
def states_once() -> Iterator[None]:
    """Compute the states of the training prompts once for each text encoder and its weights."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from sdxs.experiments.distill import recipe

    compute, known = recipe.prompt_states, {}

    def compute_or_find(text: recipe.CLIPTextModel, ids: Sequence[np.ndarray]) -> list[mx.array]:
        digest = hashlib.sha256()
        for name, value in tree_flatten(text.parameters()):
            digest.update(name.encode() + np.array(value).tobytes())
        for rows in ids:
            digest.update(rows.tobytes())
        key = digest.digest()
        if key not in known:
            known[key] = compute(text, ids)
        return list(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "prompt_states", compute_or_find)
        yield


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def on_macos(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Install a fake Core ML on a system that says it is macOS; the packages it compiles.

    Fails a test that lets Core ML free an input (coremltools#2827).
    """
    from fake_coreml import install, releases

    yield install(monkeypatch)
    gc.collect()
    assert releases() == [], "Core ML held the last reference to an input, and ends the process"
