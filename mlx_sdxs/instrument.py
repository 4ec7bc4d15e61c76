"""Measure MLX for bench: work per module, peaks of the device, times of the stages."""

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
from ..common.picture.size import FrameSize, Size
from .backend import CACHE_LIMIT_BYTES, MlxBackend
from .networks import autoencoder_kl, unet
from .networks.taesd import AutoencoderTiny
from .networks.unet import UNet2DConditionModel

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_LONG_ENOUGH_S = 0.02
_COPY_BYTES = 2**27
_REPEATS = 5


class MlxInstrument:
    """The MLX implementation of `common.bench.measure.instrument.Instrument`."""

    def count(self, checkpoint: Checkpoint, size: Size) -> list[StageCost]:
        """Count a frame's work by calling the unevaluated networks; MLX only infers shapes."""
        checkpoint.check_size(size)
        config, picture = checkpoint.vae, FrameSize.of(size)
        vae = (
            AutoencoderTiny(config)
            if isinstance(config, TinyVAEConfig)
            else autoencoder_kl.AutoencoderKL(config)
        )
        network = UNet2DConditionModel(checkpoint.unet)
        latents = mx.zeros((1, *picture.divided(config.reduction), config.latent_channels))
        encoder_hidden_states = mx.zeros((1, PROMPT_TOKENS, checkpoint.unet.cross_attention_dim))
        timestep = float(checkpoint.frame.timestep)
        return [
            _counted("encode", vae, lambda: vae.encode(mx.zeros((1, *picture.shape, 3)))),
            _counted("unet", network, lambda: network(latents, timestep, encoder_hidden_states)),
            _counted("decode", vae, lambda: vae.decode(latents)),
        ]

    def peaks(self, dtype: str) -> Peaks:
        kind = _DTYPES[dtype]
        # the limit of the backend; without it a copy measures page faults
        mx.set_cache_limit(CACHE_LIMIT_BYTES)
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
            f"{side} x {side} matrix product, {dtype}; {_COPY_BYTES >> 20} MB copy, both through "
            "MLX"
        )
        return Peaks(2 * side**3 / seconds, 2 * _COPY_BYTES / copied, dtype, how)

    def notes(self, backend: Backend) -> list[str]:
        return []  # MLX has no notes

    def profile(self, backend: Backend, picture: np.ndarray, frames: int) -> dict[str, list[float]]:
        if not isinstance(backend, MlxBackend) or backend._frame is None:
            raise BackendError("mlx: only a loaded MLX backend can be profiled")
        frame, encoder_hidden_states, noise = (
            backend._frame,
            backend._encoder_hidden_states,
            backend._noise,
        )
        # stages are compiled like the frame, so only fusion across stages is lost
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
            x0 = done(denoise(done(encode(given)), encoder_hidden_states, noise))
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
    """Return the seconds of the fastest run.

    A GPU gets four runs at once, to hide the host's overhead.
    """
    mx.eval(make())
    best, at_once = math.inf, 4 if mx.default_device().type == mx.DeviceType.gpu else 1
    for _ in range(_REPEATS):
        began = time.perf_counter()
        mx.eval([make() for _ in range(at_once)])
        best = min(best, (time.perf_counter() - began) / at_once)
    return best


def _counted(stage: str, network: nn.Module, call: Callable[[], mx.array]) -> StageCost:
    """Count the work of one call of a network from its leaves; evaluate nothing."""
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
    """Return a subclass of `kind` whose instances report the work of each call to `note`."""

    def called(self: nn.Module, x: mx.array, *others: mx.array) -> mx.array:
        y = kind.__call__(self, x, *others)
        if isinstance(self, (nn.Conv2d, nn.Linear)):
            weights = self.weight.size + (self.bias.size if "bias" in self else 0)
            # each output value is a sum over one filter: the weight without its first axis
            note(2 * y.size * (self.weight.size // self.weight.shape[0]), weights, x.size + y.size)
        else:
            queries, width = x.size // x.shape[-1], x.shape[-1]
            keys = others[0].shape[1] if others else queries
            # products q k^T and scores v; reads q, k, v and writes y
            note(4 * queries * keys * width, 0, 2 * queries * width + 2 * keys * width)
        return y

    return type(f"Noting{kind.__name__}", (kind,), {"__call__": called})
