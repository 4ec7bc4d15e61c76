"""The training losses: difference from the teacher's picture, latents, and unsteadiness.

Pictures are float32 (B, S, S, 3) in [0, 1]; every function returns a scalar.
"""

import mlx.core as mx

_LUMA = (0.299, 0.587, 0.114)


def picture_loss(made: mx.array, wanted: mx.array) -> mx.array:
    """Return absolute and squared error, absolute error of gradients, and 1 - SSIM."""
    difference = made - wanted
    rows = mx.abs(difference[:, 1:] - difference[:, :-1]).mean()
    columns = mx.abs(difference[:, :, 1:] - difference[:, :, :-1]).mean()
    return (
        mx.abs(difference).mean()
        + 10 * mx.square(difference).mean()
        + 0.5 * (rows + columns)
        + 0.1 * (1 - similarity(made, wanted))
    )


def psnr(made: mx.array, wanted: mx.array) -> mx.array:
    """In dB, of all pictures together, clipped as a screen would."""
    return -10 * mx.log10(mx.square(mx.clip(made, 0, 1) - wanted).mean() + 1e-9)


def similarity(a: mx.array, b: mx.array) -> mx.array:
    """Return the structural similarity (Wang et al. 2004) of brightness over 8 x 8 squares."""
    weights = mx.array(_LUMA)
    a, b = _pool(a @ weights, 8), _pool(b @ weights, 8)  # (B, S/8, S/8, 64)
    mean_a, mean_b = a.mean(axis=-1, keepdims=True), b.mean(axis=-1, keepdims=True)
    a, b = a - mean_a, b - mean_b
    variance = mx.square(a).mean(axis=-1) + mx.square(b).mean(axis=-1)
    mean_a, mean_b = mean_a[..., 0], mean_b[..., 0]
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * mean_a * mean_b + c1) / (mx.square(mean_a) + mx.square(mean_b) + c1)
    return (light * (2 * (a * b).mean(axis=-1) + c2) / (variance + c2)).mean()


def _pool(plane: mx.array, side: int) -> mx.array:
    """(B, S, S) -> (B, S/side, S/side, side * side): the squares a plane consists of."""
    batch, height, width = plane.shape
    squares = plane.reshape(batch, height // side, side, width // side, side).transpose(
        0, 1, 3, 2, 4
    )
    return squares.reshape(batch, height // side, width // side, side * side)


def unsteadiness(
    before: mx.array, after: mx.array, made_before: mx.array, made_after: mx.array
) -> mx.array:
    """By how much the output changed more than its input, in brightness averaged over 4 x 4 pixels.

    What `common/picture/temporal.py` measures as flicker; nothing is lost where the output moved
    less than the input.
    """
    weights = mx.array(_LUMA)
    moved = mx.abs(_pool((after - before) @ weights, 4).mean(axis=-1))
    made = mx.abs(_pool((made_after - made_before) @ weights, 4).mean(axis=-1))
    return mx.maximum(made - moved, 0).mean()
