"""`coreml_backend.apart` for a child process, in which the fake is Core ML.

$FAKE_COREML_DIES is `StrictModel.dies` there, or 'load hang'.
"""

import os
import time

import numpy as np
import pytest

from fake_coreml import StrictModel, install
from sdxs.coreml_backend import apart
from sdxs.coreml_backend.cache import Built
from sdxs.coreml_backend.options import CoreMLOptions
from sdxs.coreml_backend.runner import Progress


def load(*arguments: object) -> None:
    _prepare()
    apart.load(*arguments)  # type: ignore[arg-type]


def render_probe(*arguments: object) -> np.ndarray:
    _prepare()
    return apart.render_probe(*arguments)  # type: ignore[arg-type]


def plan(built: Built, options: CoreMLOptions, report: Progress) -> list[str]:
    _prepare()
    return [f"asked in process {os.getpid()}", *apart.plan(built, options, report)]


def _prepare() -> None:
    print("what Core ML's compiler prints")
    install(pytest.MonkeyPatch())
    how = os.environ.get("FAKE_COREML_DIES", "")
    if how == "load hang":
        time.sleep(600)
    StrictModel.dies = how
