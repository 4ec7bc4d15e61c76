"""Blend the two to four corners of a pad by a place on it: a spherical weighted mean.

Every function works on encoder_hidden_states, float32 (1, 77, D), token by token. The mean is the
point of the sphere whose weighted squared angles to the corners are least (Buss and Fillmore 2001,
"Spherical averages"). It does not depend on the order of the corners, but for rounding. Of two
corners it is the point of `Slerp`, which computes it here too, so an edge is a bank of two.
"""

from collections.abc import Sequence

import numpy as np

from .syntax import Blend, ParsedPrompt

_STILL = 1e-9  # radians: a step towards the mean so short is none
_MOST_STEPS = 50  # corners 90 degrees apart need a dozen
_OPPOSITE = 1e-4  # of a sine, as in `Slerp`; a mean of nearly opposite vectors is ill-conditioned


def shares(columns: tuple[int, int], across: float, down: float) -> list[float]:
    """Return the share of each corner, those above first; they add up to 1.

    columns: corners above and below, 1 or 2 each. across, down: the place, 0 to 1.
    """
    rows = ((columns[0], 1 - down), (columns[1], down))
    return [
        part * row
        for count, row in rows
        for part in ([1 - across, across] if count == 2 else [1.0])
    ]


def on_corners(prompt: ParsedPrompt) -> list[tuple[Blend, float]]:
    """Return the corners of a pad, each with its share at the prompt's place."""
    columns = len(prompt.stops), len(prompt.below)
    parts = shares(columns, prompt.position, prompt.position_y)
    return list(zip(prompt.corners, parts, strict=True))


def spherical_mean(encodings: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the spherical weighted mean per token; norms are the weighted mean of the norms.

    weights: above 0, their sum 1. A token that is zero, or nearly opposite, in two of the corners
    gets the plain weighted mean. Returns float32 of the shape of its inputs.
    """
    share = np.array(weights, np.float64)
    vectors = np.stack(encodings, axis=-2).astype(np.float64)  # (1, 77, N, D)
    lengths = np.linalg.norm(vectors, axis=-1)  # (1, 77, N)
    units = vectors / np.where(lengths > 0, lengths, 1)[..., None]
    cosines = np.clip(units @ np.swapaxes(units, -1, -2), -1, 1)  # (1, 77, N, N)
    opposite = cosines.min(axis=(-1, -2)) < -np.sqrt(1 - _OPPOSITE**2)
    straight = opposite | (lengths == 0).any(axis=-1)
    parts = _mean_of_units(cosines, share, ~straight)
    found = (parts[..., None, :] @ units)[..., 0, :]  # (1, 77, D)
    length = np.linalg.norm(found, axis=-1, keepdims=True)
    turned = found * (lengths @ share)[..., None] / np.where(length > 0, length, 1)
    plain = (share @ vectors).reshape(turned.shape)
    mean: np.ndarray = np.where(straight[..., None], plain, turned).astype(np.float32)
    return mean


def _mean_of_units(cosines: np.ndarray, share: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return the mean of unit vectors as a sum of them: the factor of each, (..., N).

    The mean lies in the space that the vectors span, so their cosines, (..., N, N), are all that
    it takes. used: (...), the tokens that count.
    """

    def times(factors: np.ndarray) -> np.ndarray:
        product: np.ndarray = (cosines @ factors[..., None])[..., 0]
        return product

    def length(factors: np.ndarray) -> np.ndarray:
        squared = np.sum(factors * times(factors), axis=-1, keepdims=True)
        root: np.ndarray = np.sqrt(np.maximum(squared, 0))
        return root

    even = np.broadcast_to(share, cosines.shape[:-1])
    at: np.ndarray = even / np.maximum(length(even), 1e-12)
    for _ in range(_MOST_STEPS):
        near = np.clip(times(at), -1, 1)
        angle, sine = np.arccos(near), np.sqrt(np.maximum(1 - near * near, 0))
        pull = share * np.where(sine > 1e-9, angle / np.where(sine > 1e-9, sine, 1), 1)
        step = pull - np.sum(pull * near, axis=-1, keepdims=True) * at
        size = length(step)
        at = np.cos(size) * at + np.sinc(size / np.pi) * step
        if not (size[used] > _STILL).any():
            break
    return at
