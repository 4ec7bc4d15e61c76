"""What bench asks of MLX: a frame's work counted module by module, the device's peaks, and the
stages one by one.
"""

import math
import time
from collections.abc import Callable
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..common.backend.protocol import Backend
from ..common.bench.measure.instrument import Peaks, StageCost
from ..common.checkpoint.config.text_encoder import PROMPT_TOKENS
from ..common.checkpoint.config.vae import TinyVAEConfig
from ..common.checkpoint.find import Checkpoint
from ..common.errors import BackendError
from .backend import CACHE_LIMIT_BYTES, MlxBackend
from .networks import autoencoder_kl, unet
from .networks.taesd import AutoencoderTiny
from .networks.unet import UNet2DConditionModel

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_LONG_ENOUGH_S = 0.02
_COPY_BYTES = 2**27
_REPEATS = 5


class MlxInstrument:
    """See `common.bench.measure.instrument.Instrument`."""

    def count(self, checkpoint: Checkpoint, size: int) -> list[StageCost]:
        """Build the networks without their weights and call them; MLX works out shapes and
        computes nothing.
        """
        checkpoint.check_size(size)
        side, channels = size // checkpoint.vae.reduction, checkpoint.vae.latent_channels
        config = checkpoint.vae
        vae = (
            AutoencoderTiny(config)
            if isinstance(config, TinyVAEConfig)
            else autoencoder_kl.AutoencoderKL(config)
        )
        network = UNet2DConditionModel(checkpoint.unet)
        latents = mx.zeros((1, side, side, channels))
        states = mx.zeros((1, PROMPT_TOKENS, checkpoint.unet.cross_attention_dim))
        timestep = float(checkpoint.frame.timestep)
        return [
            _counted("encode", vae, lambda: vae.encode(mx.zeros((1, size, size, 3)))),
            _counted("unet", network, lambda: network(latents, timestep, states)),
            _counted("decode", vae, lambda: vae.decode(latents)),
        ]

    def peaks(self, dtype: str) -> Peaks:
        kind = _DTYPES[dtype]
        mx.set_cache_limit(
            CACHE_LIMIT_BYTES
        )  # as the backend has it; without it a copy measures page faults
        side = 512
        while True:
            side *= 2
            a, b = (mx.random.normal((side, side)).astype(kind) / math.sqrt(side) for _ in range(2))
            seconds = _best(partial(mx.matmul, a, b))
            if seconds > _LONG_ENOUGH_S or side >= 16384:
                break
        source = mx.random.normal((_COPY_BYTES // 4,))
        copied = _best(lambda: source + 1)
        how = (
            f"{side} x {side} matrix product, {dtype}; {_COPY_BYTES >> 20} MB copy, both "
            "through "
            "MLX"
        )
        return Peaks(2 * side**3 / seconds, 2 * _COPY_BYTES / copied, dtype, how)

    def notes(self, backend: Backend) -> list[str]:
        return []  # it tells nothing of the kind

    def profile(self, backend: Backend, picture: np.ndarray, frames: int) -> dict[str, list[float]]:
        if not isinstance(backend, MlxBackend) or backend._frame is None:
            raise BackendError("mlx: only a loaded MLX backend can be profiled")
        frame, prompt, noise = backend._frame, backend._prompt, backend._noise
        # Each stage compiled as the whole frame is, so that only what the stages shared is lost.
        wrap = mx.compile if mx.default_device().type == mx.DeviceType.gpu else _as_it_is
        encode, denoise, decode = (wrap(f) for f in (frame.encode, frame.denoise, frame.decode))
        times: dict[str, list[float]] = {
            name: [] for name in ("in", "encode", "unet", "decode", "out")
        }
        out = np.empty_like(picture)
        for number in range(frames + 2):
            stamps = [time.perf_counter_ns()]

            def done(array: mx.array, stamps: list[int] = stamps) -> mx.array:
                mx.eval(array)
                stamps.append(time.perf_counter_ns())
                return array

            given = done(mx.array(picture))
            x0 = done(denoise(done(encode(given)), prompt, noise))
            rendered = done(decode(x0))
            np.copyto(out, np.asarray(rendered))
            stamps.append(time.perf_counter_ns())
            if number >= 2:
                for name, began, ended in zip(times, stamps[:-1], stamps[1:], strict=True):
                    times[name].append((ended - began) / 1e6)
        return times


def _as_it_is(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    return function


def _best(make: Callable[[], mx.array]) -> float:
    """Seconds of the fastest of several runs; several at once on a GPU, so that the host's part
    does not matter.
    """
    mx.eval(make())
    best, at_once = math.inf, 4 if mx.default_device().type == mx.DeviceType.gpu else 1
    for _ in range(_REPEATS):
        began = time.perf_counter()
        mx.eval([make() for _ in range(at_once)])
        best = min(best, (time.perf_counter() - began) / at_once)
    return best


def _counted(stage: str, network: nn.Module, call: Callable[[], mx.array]) -> StageCost:
    """Call a network whose leaves note what they are asked to do; nothing is evaluated."""
    cost = StageCost(stage, 0, 0, 0)
    classes: list[tuple[nn.Module, type]] = []

    def note(flops: int, weights: int, activations: int) -> None:
        nonlocal cost
        cost = cost.plus(flops, weights, activations)

    try:
        for _, module in network.named_modules():
            if isinstance(module, _COUNTED):
                classes.append((module, module.__class__))
                module.__class__ = _noting(module.__class__, note)
        call()
    finally:
        for module, kind in classes:
            module.__class__ = kind
    return cost


_COUNTED = (nn.Conv2d, nn.Linear, unet.Attention, autoencoder_kl.Attention)


def _noting(kind: type, note: Callable[[int, int, int], None]) -> type:
    """A class like `kind` whose instances note each call; works for whatever subclass does the
    computing.
    """

    def called(self: nn.Module, x: mx.array, *others: mx.array) -> mx.array:
        y = kind.__call__(self, x, *others)
        if isinstance(self, (nn.Conv2d, nn.Linear)):
            weights = self.weight.size + (self.bias.size if "bias" in self else 0)
            # every output number is a sum over one filter: all of the weight but its first axis
            note(2 * y.size * (self.weight.size // self.weight.shape[0]), weights, x.size + y.size)
        else:
            queries, width = x.size // x.shape[-1], x.shape[-1]
            keys = others[0].shape[1] if others else queries
            note(
                4 * queries * keys * width, 0, 2 * queries * width + 2 * keys * width
            )  # q k and s v; q, k, v in, y out
        return y

    return type(f"Noting{kind.__name__}", (kind,), {"__call__": called})
