"""LoRAs whose weights change while frames are rendered.

Weights are fused again from the checkpoint, so a change costs no memory that stays and leaves no
rounding behind. What folding has made of a layer is made of its fused weight again, in the same
way: the result is that of a fresh load, bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn

from ...common.adapt.fusing import FusedReader
from ...common.adapt.mix import Weights
from ...common.checkpoint.find import Checkpoint
from ..fast.ops import on_gpu, silu, stepwise
from ..frame import Frame
from ..networks.layers import laid_out
from ..networks.unet import TimestepEmbedding
from .rebind import Path, Slots, at, path_of, rebound

Arrays = tuple[mx.array, mx.array, mx.array]  # what a frame returns


@dataclass(frozen=True)
class Fused:
    """A frame under one set of weights. Shared by jobs: compared by identity.

    weights: of the LoRAs. values: the changed arrays, in the order of the slots. frames: without
    and, if the model has a ControlNet, with it.
    """

    weights: Weights
    slots: Slots
    values: list[mx.array]
    frames: list[Frame]


class LiveLoras:
    """The LoRAs of a loaded MLX frame."""

    def __init__(self, checkpoint: Checkpoint, frames: Sequence[Frame], dtype: mx.Dtype) -> None:
        """frames: loaded and folded under the checkpoint's own weights. Raises WeightsError."""
        found = checkpoint.adapters()
        assert found is not None
        self._adapters, self._path = found, checkpoint.unet_weights
        self._frames, self._dtype = list(frames), dtype
        self._embedding = TimestepEmbedding(checkpoint.unet)
        self._timestep = float(frames[0].steps[0].timestep)

    @property
    def weights(self) -> Weights:
        """The weights that the checkpoint was opened with."""
        return self._adapters.weights

    def slots(self) -> Slots:
        """Return the places of all arrays that the LoRAs opened so far change."""
        return tuple(dict.fromkeys(path for layer in self._layers() for path in self._of(layer)))

    def fuse(self, weights: Weights) -> Fused:
        """Return the frame under other weights, evaluated. Raises WeightsError, UsageError."""
        self._adapters.open(weights)
        reader = self._adapters.reader(self._path, "unet", weights)
        slots, values = self.slots(), []
        for path in slots:
            values.append(self._value(path, reader))
            mx.eval(values[-1])  # one after the other: each is float32 before
        first = rebound(self._frames[0], slots, values)
        mx.eval([at(first.unet, path) for path in slots])
        if first.last_weight is not None:
            mx.eval(first.last_weight)
        frames = [
            replace(frame, unet=first.unet, last_weight=first.last_weight) for frame in self._frames
        ]
        return Fused(weights, slots, values, frames)

    def loaded(self) -> Fused:
        """Return the frame as it was loaded."""
        unet, slots = self._frames[0].unet, self.slots()
        values = [at(unet, path) for path in slots]
        return Fused(self.weights, slots, values, self._frames)

    def _layers(self) -> list[str]:
        return sorted(self._adapters.changes("unet", self._adapters.weights))

    def _of(self, layer: str) -> Iterator[Path]:
        """Yield the places of arrays that depend on a layer of the checkpoint."""
        unet, path = self._frames[0].unet, path_of(layer)
        parent, name = at(unet, path[:-1]), path[-1]
        if at(unet, (*path, "weight")) is not None:
            yield (*path, "weight")
        elif path[0] == "time_embedding":
            for resnet in self._resnets():
                yield self._shift(resnet)
        elif name == "time_emb_proj":
            yield self._shift(path[:-1])
        elif isinstance(parent, dict) and "to_qkv" in parent:
            yield (*path[:-1], "to_qkv", "weight")
        else:  # of an attention that is folded per prompt
            steps = list(path)
            place = next(n for n, step in enumerate(steps) if step in ("attn1", "attn2")) + 1
            yield (*steps[:place], "attention", *steps[place:], "weight")

    def _resnets(self) -> Iterator[Path]:
        for name, module in self._frames[0].unet.named_modules():
            if isinstance(module, nn.Module) and "conv2" in module and "norm2" in module:
                yield path_of(name)

    def _shift(self, resnet: Path) -> Path:
        """Return the place of the bias with the timestep in it: of conv1, or of the norm after."""
        moved = (*resnet, "norm2", "shift")
        return moved if at(self._frames[0].unet, moved) is not None else (*resnet, "conv1", "bias")

    def _value(self, path: Path, reader: FusedReader) -> mx.array:
        layer = path[:-1]
        if layer[-1] == "to_qkv":
            names = [_name((*layer[:-1], each)) for each in ("to_q", "to_k", "to_v")]
            return mx.concatenate([self._read(reader, name) for name in names])
        if path[-1] in ("shift", "bias"):
            return self._with_timestep(layer[:-1], reader)
        plain = tuple(step for step in layer if step != "attention")
        return self._read(reader, _name(plain))

    def _read(self, reader: FusedReader, name: str) -> mx.array:
        return laid_out(mx.array(reader.array(name)), self._dtype)

    def _with_timestep(self, resnet: Path, reader: FusedReader) -> mx.array:
        """Return conv1's bias with the projected timestep added, as `fold` does."""
        embedding = self._embedding
        for layer in ("linear_1", "linear_2"):
            for part in ("weight", "bias"):
                array = self._read(reader, f"time_embedding.{layer}.{part}")
                embedding[layer][part] = array
        time = silu(embedding(self._timestep, mx.float32))
        names = _name(resnet, "time_emb_proj.weight"), _name(resnet, "time_emb_proj.bias")
        projection = nn.Linear(1, 1)
        projection.weight, projection.bias = (self._read(reader, name) for name in names)
        bias = self._read(reader, _name(resnet, "conv1.bias"))
        return (bias.astype(mx.float32) + projection(time)[0]).astype(self._dtype)


def _name(path: Path, last: str = "weight") -> str:
    return ".".join([*map(str, path), last])


def render_of(frames: Sequence[Frame], number: int) -> Callable[..., Arrays]:
    """Return a render function of jobs that bring their `Fused`: of frame `number`, for one lane.

    On a GPU the changed arrays are inputs of the compiled function, so other weights compile
    nothing; a LoRA that a prompt names for the first time does.
    """
    if not on_gpu():
        return stepwise()(lambda fused, *given: fused.frames[number](*given))
    compiled: dict[Slots, Callable[..., Arrays]] = {}

    def render(fused: Fused, *given: mx.array) -> Arrays:
        slots = fused.slots
        if slots not in compiled:
            compiled[slots] = mx.compile(
                lambda values, *rest: rebound(frames[number], slots, values)(*rest)
            )
        return compiled[slots](fused.values, *given)

    return render
