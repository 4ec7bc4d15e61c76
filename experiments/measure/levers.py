"""Measure what each optimisation of the CPU frame gains: alone, and taken away in the end.

`python -m sdxs.experiments levers [--model demo] [--size 256] [--rounds 3] [--json PATH]`.
Processor time of a single thread, one frame at a time, which a shared machine disturbs little;
rounds go through all variants in turn, each loaded afresh. How many frames in flight gain is
another matter, and measured by the clock: the last rows. Strips stand on the Winograd products and
have no figure of their own; where no map is large enough for them they are left out.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...common.checkpoint.config.vae import TinyVAEConfig
from ...common.checkpoint.find import Checkpoint, find
from ...common.settings import setting
from ...mlx_sdxs import backend as backend_module
from ...mlx_sdxs import blas, frame
from ...mlx_sdxs.backend import MlxBackend
from ...mlx_sdxs.fast import conv
from ...mlx_sdxs.networks import controlnet, layers, unet
from ...mlx_sdxs.options import MlxOptions
from .. import record
from ..options import Options, option

Patch = tuple[object, str, object]  # an owner, a name, and what stands there without the lever
STRIPS = "large maps in strips of rows"
_share_among = blas.share_among
ONE_THREAD: Patch = (blas, "share_among", lambda callers: _share_among(os.cpu_count() or 1))


def _attention_of_mlx(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5)


def _direct(height: int, width: int, inputs: int, outputs: int, stride: int = 1) -> conv.Form:
    return conv.strided_form(height, width) if stride == 2 else "direct"


def _convolutions_alone(self: frame.Frame, prompt: bool = False) -> frame.Frame:
    """In place of `Frame.fold`: the timestep stays an input, a prompt its hidden states."""
    for network in (self.unet, self.vae):
        frame.fold_convolutions(network)
    return self


def _unchanged() -> Callable[[frame.Frame], frame.Frame]:
    return lambda function: function


# What stands in for each lever, in the order of the table.
WITHOUT: dict[str, tuple[Patch, ...]] = {
    "3 x 3 convolutions as Winograd products": ((conv, "best_form", _direct),),
    "strided convolutions as one product": (
        (conv, "strided_form", lambda height, width: "direct"),
    ),
    STRIPS: ((conv, "_STRIPS", 1 << 30),),
    "SiLU and GELU as rational functions": (
        *((module, "silu", nn.silu) for module in (layers, unet, controlnet)),
        (unet, "gelu", nn.gelu),
    ),
    "softmax by a binary exponent, head by head": ((unet, "attention", _attention_of_mlx),),
    "group statistics as products": ((layers.GroupNorm, "__call__", nn.GroupNorm.__call__),),
    "timestep, prompt, and q, k, v folded": ((frame.Frame, "fold", _convolutions_alone),),
    "step by step": ((backend_module, "stepwise", _unchanged),),
}


@contextlib.contextmanager
def without(levers: Sequence[str]) -> Iterator[None]:
    """Take levers away for a while."""
    with patched([patch for lever in levers for patch in WITHOUT[lever]]):
        yield


@contextlib.contextmanager
def patched(patches: Sequence[Patch]) -> Iterator[None]:
    """Put other things in their places for a while."""
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, value in patches:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def variants(strips: bool) -> dict[str, tuple[str, ...]]:
    """Name -> the levers that it lacks. strips: whether any map is large enough to be cut."""
    every = tuple(WITHOUT)
    named = {
        "plain port": every,
        "all levers": (),
        **{
            f"only {lever}": tuple(other for other in every if other != lever)
            for lever in every
            if lever != STRIPS
        },
        **{f"without {lever}": (lever,) for lever in every if lever != STRIPS},
    }
    return named | ({f"without {STRIPS}": (STRIPS,)} if strips else {})


def has_strips(checkpoint: Checkpoint, size: int) -> bool:
    """Whether the VAE's largest maps are cut into strips at this size."""
    vae = checkpoint.vae
    channels = (
        vae.decoder_block_out_channels[0]
        if isinstance(vae, TinyVAEConfig)
        else vae.block_out_channels[0]
    )
    weight = mx.zeros((3, 6, channels, channels))
    return conv._strip_rows(mx.zeros((1, size, size, channels)), weight) < size


def frame_ms(
    checkpoint: Checkpoint, size: int, frames: int, lanes: int, clock: Callable[[], float]
) -> list[float]:
    """Milliseconds of each of some frames by a clock, the networks loaded and warm."""
    backend = MlxBackend(checkpoint, MlxOptions(size, dtype="float32", lanes=lanes))
    backend.load()
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out, times = np.empty_like(picture), []
    for _ in range(lanes - 1):
        backend.submit(picture)
    for number in range(frames + lanes):
        began = clock()
        backend.submit(picture)
        backend.collect(out)
        if number >= lanes:
            times.append(1e3 * (clock() - began))
    for _ in range(lanes - 1):
        backend.collect(out)
    backend.close()
    return times


def gains(
    raw: dict[str, list[float]], levers: Sequence[str] = tuple(WITHOUT)
) -> dict[str, dict[str, float]]:
    """Return each lever's gain over the plain port, and its loss when taken from the end."""
    median = {name: float(np.median(times)) for name, times in raw.items()}
    return {
        lever: {
            what: round(slower / faster, 3)
            for what, slower, faster in (
                ("alone", median["plain port"], median.get(f"only {lever}")),
                ("in the end", median.get(f"without {lever}"), median["all levers"]),
            )
            if slower and faster
        }
        for lever in levers
    }


def measure(checkpoint: Checkpoint, size: int, rounds: int, frames: int) -> dict[str, object]:
    """Every variant in every round."""
    tried = variants(has_strips(checkpoint, size))
    raw: dict[str, list[float]] = {name: [] for name in tried}
    flight: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, lacking in tried.items():
            with without(lacking), patched([ONE_THREAD]):
                raw[name] += frame_ms(checkpoint, size, frames, 1, time.process_time)
            print(
                f"round {number + 1} of {rounds}: {name}: {np.median(raw[name]):.1f} ms", flush=True
            )
        for lanes in (1, 2):
            for lacking in ((), ("step by step",)):
                with without(lacking):
                    name = f"{lanes} in flight, {'all at once' if lacking else 'step by step'}"
                    flight.setdefault(name, []).extend(
                        frame_ms(checkpoint, size, 2 * frames, lanes, time.perf_counter)
                    )
                    print(
                        f"round {number + 1} of {rounds}: {name}: {np.mean(flight[name]):.1f} ms",
                        flush=True,
                    )
    return {
        "model": checkpoint.name,
        "size": size,
        "gains": gains(raw),
        "cpu_ms": {name: round(float(np.median(times)), 2) for name, times in raw.items()},
        "raw_cpu_ms": raw,
        "clock_ms": {name: round(float(np.mean(times)), 2) for name, times in flight.items()},
        "raw_clock_ms": flight,
    }


@dataclass(frozen=True, slots=True)
class LeversOptions(Options):
    """Which checkpoint, and how often."""

    model: str = setting("demo", "a checkpoint, by name or folder")
    size: int | None = setting(
        None, "side of the picture", minimum=8, unit="pixels", shown="the model's own"
    )
    rounds: int = setting(3, "rounds through all variants", minimum=1)
    frames: int = setting(5, "frames of each variant in a round", minimum=1)
    json: Path | None = option(
        None, "add to the results in this file", metavar="PATH", use="written"
    )


def run(options: LeversOptions) -> None:
    """Measure one checkpoint at one size; its earlier row is replaced."""
    checkpoint = find(options.model, download=False)
    row = measure(checkpoint, options.size or checkpoint.frame.size, options.rounds, options.frames)
    print(json.dumps({key: row[key] for key in ("gains", "clock_ms")}, indent=1))
    if options.json:
        library = blas.loaded()
        used = f"{library.origin} ({library.core})" if library else "MLX's own"
        results = (
            json.loads(options.json.read_text(encoding="utf-8"))["results"]
            if options.json.is_file()
            else []
        )
        kept = [r for r in results if (r["model"], r["size"]) != (row["model"], row["size"])]
        # Each row has its own facts: rows are added on different days and machines.
        added = row | {"blas": used} | record.facts(options)
        record.write(options.json, {"results": [*kept, added]}, options)
