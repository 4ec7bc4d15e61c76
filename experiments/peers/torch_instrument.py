"""What bench measures of PyTorch: FLOPs by its own counter, peaks, times of the stages."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from ...common.backend.protocol import Backend
from ...common.bench.measure.instrument import STAGES, Peaks, StageCost
from ...common.checkpoint.find import Checkpoint
from ...common.errors import BackendError, UsageError
from ...common.picture.size import Size
from .torch_backend import TorchBackend

_REPEATS = 8
_COPY_BYTES = 2**28


class TorchInstrument:
    """See `common.bench.measure.instrument.Instrument`."""

    def count(self, checkpoint: Checkpoint, size: Size) -> list[StageCost]:
        raise UsageError("torch: work is counted from the graphs of MLX and Core ML")

    @torch.inference_mode()
    def peaks(self, dtype: str) -> Peaks:
        device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
        side, kind = 2048 if device == "cpu" else 8192, getattr(torch, dtype)
        a, b = (
            torch.randn(side, side, device=device, dtype=kind) / math.sqrt(side) for _ in range(2)
        )
        seconds = _best(lambda: a @ b, device)
        source = torch.randn(_COPY_BYTES // 4, device=device)
        copied = _best(lambda: source.clone(), device)
        how = (
            f"{side} x {side} matrix product, {dtype}; {_COPY_BYTES >> 20} MB copy, both through "
            "PyTorch"
        )
        return Peaks(2 * side**3 / seconds, 2 * _COPY_BYTES / copied, dtype, how)

    def notes(self, backend: Backend) -> list[str]:
        return []  # it tells nothing of the kind

    @torch.inference_mode()
    def profile(self, backend: Backend, picture: np.ndarray, frames: int) -> dict[str, list[float]]:
        if not isinstance(backend, TorchBackend):
            raise BackendError("torch: only the torch peer can be profiled")
        encode, denoise, decode = backend.stages
        calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "encode": encode,
            "unet": lambda z: denoise(z, backend.encoder_hidden_states, backend.noise),
            "decode": decode,
        }
        if backend.graphed:
            calls = _captured(backend, calls)
        pictures = torch.from_numpy(np.stack([picture] * backend.batch))
        times: dict[str, list[float]] = {name: [] for name in ("in", *STAGES, "out")}
        for number in range(frames + 3):
            stamps = [time.perf_counter_ns()]

            def done(x: torch.Tensor, stamps: list[int] = stamps) -> torch.Tensor:
                backend.wait()
                stamps.append(time.perf_counter_ns())
                return x

            x = done(pictures.to(backend.device))
            for name in STAGES:
                x = done(calls[name](x))
            x.cpu()
            stamps.append(time.perf_counter_ns())
            if number >= 3:
                for name, began, ended in zip(times, stamps[:-1], stamps[1:], strict=True):
                    times[name].append((ended - began) / 1e6 / backend.batch)
        return times


def _captured(
    backend: TorchBackend, calls: dict[str, Callable[[torch.Tensor], torch.Tensor]]
) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """A graph of each stage over fixed memory: a replay reads and writes the same tensors."""
    given, replays = backend.picture, {}
    for name, call in calls.items():
        replay = backend.captured(lambda call=call, given=given: call(given))
        given = replay()
        replays[name] = lambda x, replay=replay: replay()
    return replays


def _best(make: Callable[[], torch.Tensor], device: str) -> float:
    """Seconds of the fastest of several runs."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        elif device == "mps":
            torch.mps.synchronize()

    make()
    wait()
    best = math.inf
    for _ in range(_REPEATS):
        began = time.perf_counter()
        for _ in range(4):
            make()
        wait()
        best = min(best, (time.perf_counter() - began) / 4)
    return best
