"""Backends whose starts leave traces: what they compile, and where."""

import os
from pathlib import Path

from sdxs.common.backend import phases
from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.errors import BackendError

FOLDER = "FAKE_STARTS_CACHE"


class Compiling(IdentityBackend):
    """Read weights, then leave one file more in its cache at every start."""

    def load(self) -> None:
        phases.reached(phases.WEIGHTS)
        folder = Path(os.environ[FOLDER])
        (folder / f"kernel-{len(list(folder.iterdir()))}").touch()
        super().load()


class Jammed(IdentityBackend):
    """Fail to load where its cache is empty: in every cold start, once."""

    def load(self) -> None:
        folder = Path(os.environ[FOLDER])
        if not list(folder.iterdir()):
            (folder / "kernel").touch()
            raise BackendError("fake: cannot compile; this is a test")
        super().load()
