"""Layers shared by the UNet and the full VAE, and the strict weight loader. Arrays are NHWC."""

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ...common.adapt.fusing import FusedReader
from ...common.checkpoint.tensors import read_header
from ...common.errors import WeightsError
from ...common.limits import shortage
from ..fast.ops import on_gpu, settle, silu


class GroupNorm(nn.GroupNorm):
    """GroupNorm over (B, H, W, C) with PyTorch's groups of neighbouring channels."""

    def __init__(self, groups: int, channels: int, eps: float) -> None:
        super().__init__(groups, channels, eps=eps, pytorch_compatible=True)

    def __call__(self, x: mx.array) -> mx.array:
        if on_gpu():
            return super().__call__(x)
        # MLX's CPU sum over a group is off by 2e-4 at 512 x 512 and twice as slow. A product with
        # ones adds in blocks and is off by 4e-7. Delete when MLX's error is below 1e-6.
        mean = self._of_groups(x)
        deviation = x - mean
        scale = self.weight * mx.rsqrt(self._of_groups(deviation * deviation) + self.eps)
        return settle(deviation * scale + self.bias)

    def then_silu(self, x: mx.array) -> mx.array:
        """Normalise, then apply SiLU; `kernels.KernelGroupNorm` does both in one kernel."""
        return silu(self(x))

    def _of_groups(self, x: mx.array) -> mx.array:
        """Return the mean of each group, repeated per channel: (B, H, W, C) -> (B, 1, 1, C)."""
        batch, height, width, channels = x.shape
        ones = mx.full((1, height * width), 1 / (height * width))
        means = (ones @ x.reshape(batch, -1, channels)).reshape(batch, 1, 1, self.num_groups, -1)
        return mx.broadcast_to(
            means.mean(axis=-1, keepdims=True), means.shape[:-1] + (channels // self.num_groups,)
        ).reshape(batch, 1, 1, channels)


class Resnet(nn.Module):
    """ResnetBlock2D of diffusers; `time_embed_dim` 0 means no time projection, as in the VAE."""

    def __init__(
        self, inputs: int, outputs: int, groups: int, eps: float, time_embed_dim: int = 0
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        if time_embed_dim:
            self.time_emb_proj = nn.Linear(time_embed_dim, outputs)
        self.norm2 = GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def __call__(self, x: mx.array, time: mx.array | None = None) -> mx.array:
        """Map x (B, H, W, inputs) to (B, H, W, outputs).

        time: silu of the time embedding, (B, time_embed_dim).
        """
        h = self.conv1(self.norm1.then_silu(x))
        if time is not None:
            h = h + self.time_emb_proj(time)[:, None, None, :]
        h = self.conv2(self.norm2.then_silu(h))
        return h + (self.conv_shortcut(x) if "conv_shortcut" in self else x)


class Downsample(nn.Module):
    """Stride-2 convolution, padded on all sides (UNet) or at bottom and right only (VAE)."""

    def __init__(self, channels: int, symmetric: bool = True) -> None:
        super().__init__()
        self._symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(x if self._symmetric else mx.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by two, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        return self.conv(double(x))


def double(x: mx.array) -> mx.array:
    """Repeat every pixel twice in both directions: (B, H, W, C) -> (B, 2H, 2W, C)."""
    batch, height, width, channels = x.shape
    x = mx.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def load_weights(
    model: nn.Module, path: Path, dtype: mx.Dtype, adapted: FusedReader | None = None
) -> None:
    """Load a weights file into `model`, and evaluate its parameters.

    Every parameter must be in the file; other tensors there are left out. 4-D tensors are
    convolutions: (O, I, kH, kW) in the file, (O, kH, kW, I) in MLX. adapted: reads the tensors of
    the same file that are changed. Raises WeightsError.
    """
    try:
        header, wanted = read_header(path), dict(nn.utils.tree_flatten(model.parameters()))
        files = {info.file for info in header.values()}
        tensors = {file: mx.load(str(file), format="safetensors") for file in files}
        changed = {} if adapted is None else _changed(adapted, dtype)
        model.load_weights(
            [
                (
                    key,
                    changed[key]
                    if key in changed
                    else laid_out(tensors[info.file][info.stored], dtype),
                )
                for key, info in header.items()
                if key in wanted
            ]
        )
        # The constructors' random weights are never computed. Left lazy, the key of the next random
        # number would keep the operations of every model ever built: 0.4 MB each.
        mx.eval(model.parameters(), mx.random.state)
    except (ValueError, RuntimeError) as error:
        if any(0xDC80 <= ord(character) <= 0xDCFF for character in str(path)):
            raise WeightsError(
                f"{path}: MLX opens no names that are not UTF-8; rename the file or its folder"
            ) from None
        raise shortage(error) or WeightsError(
            f"{path}: {error}; run `sdxs weights verify` or replace the file"
        ) from None


def _changed(adapted: FusedReader, dtype: mx.Dtype) -> dict[str, mx.array]:
    """Return the changed tensors in MLX's layout, one after the other: each is float32 before."""
    found = {}
    for name in adapted.changed:
        found[name] = laid_out(mx.array(adapted.array(name)), dtype)
        mx.eval(found[name])
    return found


def laid_out(tensor: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return a checkpoint tensor in MLX's layout and `dtype`, contiguous."""
    # CUDA copies a transposed view again in every frame.
    return mx.contiguous(
        (tensor.transpose(0, 2, 3, 1) if tensor.ndim == 4 else tensor).astype(dtype)
    )


def parameter_bytes(model: nn.Module) -> int:
    """Return the bytes of the model's parameters."""
    return sum(array.nbytes for _, array in nn.utils.tree_flatten(model.parameters()))
