"""Backends that are fast because their pictures are wrong, or are not made of their frames.

Named by their place, as "fake_pictures:Previous". All but `Scaled` are the identity with one fault.
"""

import time
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sdxs.common.backend.identity import IdentityBackend
from sdxs.common.backend.options import BackendOptions
from sdxs.common.backend.protocol import StageTimes
from sdxs.common.checkpoint.find import Checkpoint, open_checkpoint
from sdxs.common.testing.layouts import change
from sdxs.mlx_sdxs.backend import MlxBackend
from sdxs.mlx_sdxs.options import MlxOptions

SCALED, BY = "conv_out.weight", 1.5
WORK_S = 0.004


class Previous(IdentityBackend):
    """Return the picture before."""

    def __init__(self, checkpoint: object, options: BackendOptions) -> None:
        super().__init__(checkpoint, options)
        self._before = np.zeros((*options.size.shape, 3), np.uint8)

    def collect(self, out: np.ndarray) -> StageTimes:
        times = super().collect(out)
        now, out[:] = out.copy(), self._before
        self._before = now
        return times


class Constant(IdentityBackend):
    """Return the first picture for ever."""

    first: np.ndarray | None = None

    def collect(self, out: np.ndarray) -> StageTimes:
        times = super().collect(out)
        self.first = out.copy() if self.first is None else self.first
        out[:] = self.first
        return times


class Swapped(IdentityBackend):
    """Take two frames and return the second first."""

    depth = 2

    def __init__(self, checkpoint: object, options: BackendOptions) -> None:
        super().__init__(checkpoint, options)
        self._given: deque[np.ndarray] = deque()
        self._number = 0

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        super().submit(frame, edges)
        self._given.append(frame)

    def collect(self, out: np.ndarray) -> StageTimes:
        times = super().collect(out)
        if len(self._given) > 1 and self._number % 2 == 0:
            out[:] = self._given[1]
        self._given.popleft()
        self._number += 1
        return times


class Flickering(IdentityBackend):
    """Be three levels too bright and too dark by turns: 38 dB, within the gate."""

    bright = False

    def collect(self, out: np.ndarray) -> StageTimes:
        times = super().collect(out)
        self.bright = not self.bright
        out[:] = np.clip(out.astype(np.int16) + (3 if self.bright else -3), 0, 255)
        return times


class Remembering(IdentityBackend):
    """Work for a picture once; of one that was seen, return what was made of it, and at once."""

    work_s = WORK_S

    def __init__(self, checkpoint: object, options: BackendOptions) -> None:
        super().__init__(checkpoint, options)
        self._seen: set[bytes] = set()

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        super().submit(frame, edges)
        known = frame.tobytes() in self._seen
        self._seen.add(frame.tobytes())
        until = time.perf_counter() + (0 if known else self.work_s)
        while time.perf_counter() < until:
            pass


class Working(IdentityBackend):
    """Work for every picture, whether it was seen or not."""

    def submit(self, frame: np.ndarray, edges: np.ndarray | None = None) -> None:
        super().submit(frame, edges)
        until = time.perf_counter() + WORK_S
        while time.perf_counter() < until:
            pass


def Scaled(checkpoint: Checkpoint, options: MlxOptions) -> MlxBackend:
    """MLX with one weight of the UNet scaled."""
    import shutil

    with TemporaryDirectory() as folder:
        copy = Path(folder) / "scaled"
        shutil.copytree(checkpoint.folder, copy)
        (path,) = sorted((copy / "unet").glob("*.safetensors"))
        change(path, lambda tensors: tensors | {SCALED: tensors[SCALED] * np.float32(BY)})
        made = MlxBackend(open_checkpoint(copy), options)
        made.load()
    made.load = lambda: None  # type: ignore[method-assign] - its files are gone
    return made
