"""The five stages of the recipe, each a module, a loss and the batches it wants.

VAE, then text encoder (prompt -> style), then UNet on latents with both frozen, then UNet and VAE
together through the decoder, where the picture counts, and with it how steady the picture is. Last
the UNet alone on mixtures of two prompts, so that the way from one style to another has something
on it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...common.backend.schedule import OneStep
from ...common.prompt.blend import Slerp
from ...mlx_sdxs.networks.taesd import AutoencoderTiny
from ...mlx_sdxs.networks.unet import UNet2DConditionModel
from .losses import picture_loss, psnr, unsteadiness
from .text_model import CLIPTextModel

STYLES = 10
NOISE_LEVELS = 6.0  # of 255: the camera noise that a picture must withstand
PATCH = 8
STEADINESS = 20.0  # weight of unsteadiness beside the picture loss


class Pictures:
    """The pairs on the device, uint8 (N, S, S, 3) each.

    Plane 0 holds the photographs, planes 1 to 10 their renderings.
    """

    def __init__(self, pairs: np.ndarray) -> None:
        self.count = len(pairs)
        self.planes = [mx.array(np.ascontiguousarray(pairs[:, k])) for k in range(pairs.shape[1])]
        mx.eval(self.planes)

    def mixed(self, generator: np.random.Generator, each: int) -> mx.array:
        """`each` pictures from every plane, (11 each, S, S, 3)."""
        return mx.concatenate(
            [p[mx.array(generator.integers(0, self.count, each))] for p in self.planes]
        )

    def pairs(self, generator: np.random.Generator, each: int) -> tuple[mx.array, mx.array]:
        """Draw `each` photographs per style and their renderings: two of (10 each, S, S, 3)."""
        chosen = generator.integers(0, self.count, (STYLES, each))
        wanted = [self.planes[k + 1][mx.array(rows)] for k, rows in enumerate(chosen)]
        return self.planes[0][mx.array(chosen.ravel())], mx.concatenate(wanted)


def unit(pictures: mx.array) -> mx.array:
    """uint8 -> float32 in [0, 1]."""
    return pictures.astype(mx.float32) / 255


# --- VAE
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Anchor:
    """The principal components of 8 x 8 patches, scaled as latents: the VAE's first goal."""

    mean: mx.array  # (192,)
    axes: mx.array  # (192, channels)

    @classmethod
    def fit(cls, pairs: np.ndarray, channels: int, seed: int = 0) -> "Anchor":
        """Find the components of a sample of all planes; component k has spread (s_k / s_0)^0.5."""
        generator = np.random.Generator(np.random.PCG64(seed))
        patches = []
        for _ in range(256):
            picture = pairs[generator.integers(len(pairs)), generator.integers(pairs.shape[1])]
            y, x = generator.integers(0, picture.shape[0] - PATCH + 1, (2, 64))
            patches += [
                picture[b : b + PATCH, a : a + PATCH].ravel() for a, b in zip(x, y, strict=True)
            ]
        sample = np.array(patches, np.float64) / 127.5 - 1
        mean = sample.mean(axis=0)
        variances, vectors = np.linalg.eigh(np.cov((sample - mean).T))
        spread = np.sqrt(np.maximum(variances[::-1][:channels], 1e-12))
        axes = vectors[:, ::-1][:, :channels] / np.sqrt(spread * spread[0])
        return cls(mx.array(mean.astype(np.float32)), mx.array(axes.astype(np.float32)))

    def __call__(self, image: mx.array) -> mx.array:
        """Picture in [-1, 1] (B, S, S, 3) -> (B, S/8, S/8, channels)."""
        batch, height, width, _ = image.shape
        patches = image.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3).transpose(
            0, 1, 3, 2, 4, 5
        )
        return (patches.reshape(batch, height // PATCH, width // PATCH, -1) - self.mean) @ self.axes


def vae_loss(anchor: Anchor) -> Callable[..., mx.array]:
    """Reconstruction, and for the first half of the training latents that stay near the anchor."""

    def loss(vae: AutoencoderTiny, progress: float, pictures: mx.array) -> mx.array:
        wanted = unit(pictures)
        latents = vae.encode(wanted * 2 - 1)
        made = (vae.decode(latents) + 1) / 2
        away = mx.square(latents - anchor(wanted * 2 - 1)).mean()
        total = picture_loss(made, wanted) + 0.5 * max(1 - 2 * progress, 0.0) * away
        return mx.stack([total, psnr(made, wanted), away])

    return loss


# --- text encoder
# ------------------------------------------------------------------------------------------------


class StyleReader(nn.Module):
    """The text encoder with a linear reader on top, which is thrown away after training."""

    def __init__(self, text: CLIPTextModel, width: int) -> None:
        super().__init__()
        self.text = text
        self.reader = nn.Linear(width, STYLES)

    def __call__(self, ids: mx.array) -> tuple[mx.array, mx.array]:
        """ids (B, 77) -> hidden states (B, 77, D) and logits (B, 77, styles)."""
        states = self.text(ids)
        return states, self.reader(states)


def text_loss(end: int) -> Callable[..., mx.array]:
    """Ask every place from the end mark on for the style, the same for every prompt of it.

    end: id of the end mark, which also pads.
    """

    def loss(model: StyleReader, progress: float, ids: mx.array, styles: mx.array) -> mx.array:
        states, logits = model(ids)
        said = (ids == end).astype(mx.float32)
        each = nn.losses.cross_entropy(
            logits, mx.broadcast_to(styles[:, None], ids.shape), label_smoothing=0.05
        )
        read = (each * said).sum() / said.sum()
        one_hot = (styles[:, None] == mx.arange(STYLES)).astype(mx.float32)
        codes = (states * said[..., None]).sum(axis=1) / said.sum(axis=1, keepdims=True)  # (B, D)
        centres = (one_hot.T @ codes) / (one_hot.sum(axis=0)[:, None] + 1e-6)
        away = (
            mx.square(states - (one_hot @ centres)[:, None]) * said[..., None]
        ).sum() / said.sum()
        right = ((logits[:, -1].argmax(axis=-1) == styles).astype(mx.float32)).mean()
        return mx.stack([read + 0.02 * away / states.shape[-1], right, away])

    return loss


def text_batch(
    ids: list[np.ndarray], each: int, vocabulary: int, end: int
) -> Callable[..., tuple[mx.array, mx.array]]:
    """Draw `each` prompts for every style; swap one word piece in ten for any other."""

    def batch(generator: np.random.Generator) -> tuple[mx.array, mx.array]:
        rows = np.concatenate([style[generator.integers(0, len(style), each)] for style in ids])
        inner = (rows != end) & (np.arange(rows.shape[1]) > 0)
        swap = inner & (generator.random(rows.shape) < 0.1)
        rows = np.where(swap, generator.integers(0, vocabulary - 2, rows.shape), rows)
        return mx.array(rows), mx.array(np.repeat(np.arange(STYLES), each))

    return batch


# --- UNet, and the finish through the decoder
# ---------------------------------------------------------------------


class Painter(nn.Module):
    """UNet and VAE as one module: a picture in, a picture out, the step between them fixed."""

    def __init__(self, unet: UNet2DConditionModel, vae: AutoencoderTiny, step: OneStep) -> None:
        super().__init__()
        self.unet, self.vae = unet, vae
        self._step = step

    def x0(self, latents: mx.array, states: mx.array) -> mx.array:
        """Latents of a photograph -> latents of its rendering, x0 = z - r eps(sqrt(a) z)."""
        eps = self.unet(self._step.sqrt_alpha * latents, float(self._step.timestep), states)
        return latents - self._step.ratio * eps

    def __call__(self, picture: mx.array, states: mx.array) -> mx.array:
        """[0, 1] -> about [0, 1], float32 (B, S, S, 3)."""
        return (self.vae.decode(self.x0(self.vae.encode(picture * 2 - 1), states)) + 1) / 2


def latent_loss(
    painter: Painter, progress: float, photographs: mx.array, wanted: mx.array, states: mx.array
) -> mx.array:
    """Distance of x0 from the latents of the teacher's picture; the VAE is frozen."""
    start = mx.stop_gradient(painter.vae.encode(unit(photographs) * 2 - 1))
    goal = mx.stop_gradient(painter.vae.encode(unit(wanted) * 2 - 1))
    difference = painter.x0(start, states) - goal
    change = mx.abs(start - goal).mean()
    return mx.stack(
        [
            mx.abs(difference).mean() + mx.square(difference).mean(),
            mx.abs(difference).mean() / change,
        ]
    )


def finish_loss(kept: int) -> Callable[..., mx.array]:
    """The picture itself, how steady it is, and that the VAE still renders the teachers' pictures.

    kept: how many of the wanted pictures also pass through the VAE alone.
    """

    def loss(
        painter: Painter,
        progress: float,
        photographs: mx.array,
        wanted: mx.array,
        states: mx.array,
        order: mx.array,
        noise: mx.array,
        shift: mx.array,
    ) -> mx.array:
        photographs, wanted, states = unit(photographs)[order], unit(wanted)[order], states[order]
        picture, shake, first = rendered_steadily(
            painter, photographs, wanted, states, noise, shift
        )
        sample = wanted[-kept:]
        kept_loss = picture_loss(
            (painter.vae.decode(painter.vae.encode(sample * 2 - 1)) + 1) / 2, sample
        )
        return mx.stack(
            [picture + 0.5 * kept_loss + STEADINESS * shake, psnr(first, wanted), kept_loss, shake]
        )

    return loss


def rendered_steadily(
    painter: Painter,
    photographs: mx.array,
    wanted: mx.array,
    states: mx.array,
    noise: mx.array,
    shift: mx.array,
) -> tuple[mx.array, mx.array, mx.array]:
    """Render a batch, and its first pictures again with noise and shift: losses and renderings."""
    shaken = len(noise)
    seen = photographs[:shaken]
    # a shift by a part of a pixel, as a hand that is not quite still makes it
    seen_again = shift * mx.roll(seen, 1, axis=2) + (1 - shift) * seen + noise
    made = painter(
        mx.concatenate([photographs, seen_again]), mx.concatenate([states, states[:shaken]])
    )
    first, again = made[: len(photographs)], made[len(photographs) :]
    wanted_again = shift * mx.roll(wanted[:shaken], 1, axis=2) + (1 - shift) * wanted[:shaken]
    picture = picture_loss(made, mx.concatenate([wanted, wanted_again]))
    return picture, unsteadiness(seen, seen_again, first[:shaken], again), first


def shaking(generator: np.random.Generator, shaken: int, size: int) -> tuple[mx.array, mx.array]:
    """The disturbance of `rendered_steadily`: noise (shaken, S, S, 3), shift (shaken, 1, 1, 1)."""
    levels = generator.uniform(0, NOISE_LEVELS / 255, (shaken, 1, 1, 1)).astype(np.float32)
    noise = generator.standard_normal((shaken, size, size, 3), dtype=np.float32) * levels
    shift = generator.uniform(0, 0.5, (shaken, 1, 1, 1)) * (
        generator.random((shaken, 1, 1, 1)) < 0.5
    )
    return mx.array(noise), mx.array(shift.astype(np.float32))


# --- the ways between prompts
# -------------------------------------------------------------------------------------


def blend_batch(
    pictures: Pictures,
    states: Sequence[np.ndarray],
    generator: np.random.Generator,
    each: int,
    window: int,
) -> tuple[mx.array, ...]:
    """Draw `each` windows for every style, two in three on the way to another style.

    states: of every training prompt, (prompts, 77, D) for each style. The way is the one that a
    live session takes: `Slerp` between the states; what is wanted there is the cross-fade of the
    two teachers' pictures.

    Returns photographs uint8 (B, window, window, 3), wanted float32 like them in [0, 1], states
    (B, 77, D), order (B,).
    """
    count, size = STYLES * each, pictures.planes[0].shape[1]
    chosen = generator.integers(0, pictures.count, count)
    here = np.repeat(np.arange(STYLES), each)
    there = (here + generator.integers(1, STYLES, count)) % STYLES
    share = generator.random(count) * (generator.random(count) < 2 / 3)
    y, x = (int(v) * PATCH for v in generator.integers(0, (size - window) // PATCH + 1, 2))
    cut = np.s_[:, y : y + window, x : x + window]
    rows = [
        states[style][generator.integers(len(states[style]), size=count)] for style in range(STYLES)
    ]
    ways = [
        Slerp(rows[a][k], rows[b][k])(t)
        for k, (a, b, t) in enumerate(zip(here, there, share, strict=True))
    ]
    wanted = [
        (1 - t) * unit(pictures.planes[a + 1][k][cut[1:]])
        + t * unit(pictures.planes[b + 1][k][cut[1:]])
        for k, a, b, t in zip(
            chosen.tolist(), here.tolist(), there.tolist(), share.tolist(), strict=True
        )
    ]
    return (
        pictures.planes[0][mx.array(chosen)][cut],
        mx.stack(wanted),
        mx.array(np.stack(ways)),
        mx.array(generator.permutation(count)),
    )


def blend_loss(
    painter: Painter,
    progress: float,
    photographs: mx.array,
    wanted: mx.array,
    states: mx.array,
    order: mx.array,
    noise: mx.array,
    shift: mx.array,
) -> mx.array:
    """The picture, wherever on the way it is, and how steady it is; the VAE is frozen."""
    wanted = wanted[order]
    picture, shake, first = rendered_steadily(
        painter, unit(photographs)[order], wanted, states[order], noise, shift
    )
    return mx.stack([picture + STEADINESS * shake, psnr(first, wanted), shake])
