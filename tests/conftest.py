"""Fixtures: the demo checkpoint, tiny random checkpoints in the real layout, and the command."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from command import Command
from sdxs.common.backend.spec import specs
from sdxs.common.checkpoint.find import Checkpoint, find, open_checkpoint
from sdxs.common.testing.random_checkpoint import architecture, tiny, write_checkpoint

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


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)
