"""What the tests of Core AI share. Importing it skips a test file where Apple's runtime cannot run.

It runs on Linux with glibc 2.34 and on macOS 26, where the extra `coreai` is installed.
"""

import os
from pathlib import Path

import pytest

from sdxs.coreai_backend import apart, prepare
from sdxs.coreai_backend.prepare import SUPPORTED, coreai_version, obstacle_here

if obstacle := obstacle_here():
    pytest.skip(f"Core AI {obstacle}", allow_module_level=True)
if (found := coreai_version()) != SUPPORTED:
    pytest.skip(
        f"coreai-core {SUPPORTED} is not installed, found {found or 'none'}",
        allow_module_level=True,
    )


def build_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs be built and checked in this process: children cost seconds each."""

    def call(options: object, task: str, *arguments: object, report: prepare.Progress) -> object:
        return getattr(apart, task)(*arguments, report)

    monkeypatch.setattr(prepare, "run_task", call)


def shared_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder for all of Core AI's tests; workers of pytest-xdist share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "coreai-weights"
    folder.mkdir(exist_ok=True)
    return folder
