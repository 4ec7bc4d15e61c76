"""Which sizes of a frame are possible: what the networks divide, and what memory can hold.

The least memory that a frame takes is estimated from the configs, before any is taken.
"""

import math

from ..errors import UsageError
from ..picture.size import FrameSize
from ..system import memory_bytes
from .config.unet import UNetConfig
from .config.vae import TinyVAEConfig, VAEConfig

# At the full size of a picture a residual block holds its input, and input and output of a
# convolution: the least any runtime needs. MLX took 3.6 of them on a CPU, more on CUDA.
TENSORS = 3


def frame_bytes(unet: UNetConfig, vae: VAEConfig, size: FrameSize, value_bytes: int) -> int:
    """Return the bytes without which no runtime renders a frame; most take several times as many.

    value_bytes: of one number in the networks.
    """
    widths = (
        vae.encoder_block_out_channels
        if isinstance(vae, TinyVAEConfig)
        else vae.block_out_channels[:1]
    )
    of_vae = max(widths) * size.pixels
    of_unet = unet.block_out_channels[0] * size.pixels // vae.reduction**2
    return TENSORS * value_bytes * max(of_vae, of_unet)


def check_multiple(name: str, given: FrameSize, multiple: int) -> None:
    """Raise UsageError unless both sides are multiples. name: of the checkpoint."""
    nearest = FrameSize(*(_nearest(side, multiple) for side in (given.width, given.height)))
    if nearest == given:
        return
    if given.square:
        raise UsageError(
            f"--size {given}: {name} needs a multiple of {multiple}; the nearest is {nearest}"
        )
    wrong = [
        f"{what} {side} (the nearest is {valid})"
        for what, side, valid in (
            ("width", given.width, nearest.width),
            ("height", given.height, nearest.height),
        )
        if side != valid
    ]
    raise UsageError(
        f"--size {given}: {name} needs a multiple of {multiple} on both sides, and not "
        f"{' and '.join(wrong)}; use --size {nearest}"
    )


def _nearest(side: int, multiple: int) -> int:
    """Return the multiple nearest to a side in pixels, at least one."""
    return max(multiple, round(side / multiple) * multiple)


def check_memory(
    name: str,
    unet: UNetConfig,
    vae: VAEConfig,
    size: FrameSize,
    value_bytes: int,
) -> None:
    """Raise UsageError for a size that no runtime can hold in the memory of this machine.

    name: of the checkpoint. value_bytes: see `frame_bytes`.
    """
    needed, present = frame_bytes(unet, vae, size, value_bytes), memory_bytes()
    if needed <= present:
        return
    multiple, share = vae.reduction * unet.reduction, math.sqrt(present / needed)
    fits = FrameSize(
        *(max(multiple, int(side * share) // multiple * multiple) for side in size.shape[::-1])
    )
    raise UsageError(
        f"--size {size}: a frame of {name} takes at least {needed / 1e9:,.1f} GB, and there are "
        f"{present / 1e9:,.1f} GB of memory; the largest that could fit is --size {fits}, and "
        "half of its sides is more likely to"
    )
