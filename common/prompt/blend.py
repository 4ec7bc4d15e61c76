"""Arithmetic between prompts: blends, and smooth ways from one to the next.

Everything works on encoder_hidden_states, float32 (1, 77, D), token by token, and keeps the length
of each token's vector in the range of the ones it is made from: a plain mean of unlike vectors is
shorter than any of them, and a network that was trained behind a layer norm paints less with it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .syntax import Blend, ParsedPrompt

_PARALLEL = (
    1e-4  # radians; below it, and near opposite, the great circle is not defined well enough
)


def blend(states: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Weighted mean, with each token's length set to the weighted mean of the lengths. Shape and
    dtype as given.

    Weights are shares: only their ratio matters. One prompt alone comes back bit for bit.
    """
    if len(states) == 1:
        return states[0]
    shares = np.array(weights, np.float64) / np.sum(weights)
    stacked = np.stack(states).astype(np.float64)  # (N, 1, 77, D)
    mean = np.tensordot(shares, stacked, axes=1)
    length = np.tensordot(shares, np.linalg.norm(stacked, axis=-1, keepdims=True), axes=1)
    found = np.linalg.norm(mean, axis=-1, keepdims=True)
    scale = np.divide(length, found, out=np.ones_like(found), where=found > 1e-12)
    blended: np.ndarray = (mean * scale).astype(np.float32)
    return blended


class Slerp:
    """The way from `a` to `b` on great circles, one for each token (Shoemake 1985); lengths change
    linearly.

    Angles are worked out once, so that a step of a running transition costs a fraction of a
    millisecond.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        self._a, self._b = a, b
        self._length_a, self._length_b = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
        self._unit_a, self._unit_b = (
            x / np.where(n > 0, n, 1) for x, n in ((a, self._length_a), (b, self._length_b))
        )
        cosine = np.clip(np.sum(self._unit_a * self._unit_b, axis=-1, keepdims=True), -1, 1)
        self._angle = np.arccos(cosine)
        self._sine = np.sin(self._angle)
        self._straight = (self._sine < _PARALLEL) | (self._length_a == 0) | (self._length_b == 0)

    def __call__(self, t: float) -> np.ndarray:
        """The states at `t`, 0 to 1; exactly `a` and `b` at the ends."""
        if t <= 0:
            return self._a
        if t >= 1:
            return self._b
        t32 = np.float32(t)
        sine = np.where(self._straight, 1, self._sine)
        share_a, share_b = np.sin((1 - t32) * self._angle) / sine, np.sin(t32 * self._angle) / sine
        turned = share_a * self._unit_a + share_b * self._unit_b
        turned *= (1 - t32) * self._length_a + t32 * self._length_b
        between = np.where(self._straight, (1 - t32) * self._a + t32 * self._b, turned)
        return between.astype(np.float32)


def along(stops: Sequence[np.ndarray], position: float) -> np.ndarray:
    """The states at `position`, 0 to len(stops) - 1, on the way through all stops."""
    leg = min(int(position), max(0, len(stops) - 2))
    return stops[0] if len(stops) == 1 else Slerp(stops[leg], stops[leg + 1])(position - leg)


def combine(prompt: ParsedPrompt, encode: Callable[[str], np.ndarray]) -> np.ndarray:
    """What a parsed prompt asks the network for, float32 (1, 77, D). encode: of one plain text."""

    def stop(parts: Blend) -> np.ndarray:
        return blend([encode(part.text) for part in parts], [part.weight for part in parts])

    leg = min(int(prompt.position), max(0, len(prompt.stops) - 2))
    near = prompt.stops[leg : leg + 2]  # the others make no difference here
    return along([stop(parts) for parts in near], prompt.position - leg)


def ease(t: float) -> float:
    """0 to 1 with no jolt at either end: 3 t^2 - 2 t^3."""
    t = min(1.0, max(0.0, t))
    return t * t * (3 - 2 * t)
