"""Interpolate prompts: weighted blends, and smooth transitions from one prompt to the next.

Every function works on encoder_hidden_states, float32 (1, 77, D), token by token. The norm of each
token's vector stays in the range of its inputs. A plain mean of unlike vectors is shorter than any
of them; a network trained behind a layer norm paints less with it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .pad import on_corners, spherical_mean
from .syntax import Blend, ParsedPrompt, Part

# radians; the great circle of nearly parallel or nearly opposite vectors is ill-conditioned
_PARALLEL = 1e-4


def blend(encodings: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Blend prompts: weighted mean, each token rescaled to the weighted mean of the norms.

    encodings: the encoder_hidden_states of each prompt. weights: only their ratio matters.
    Returns the shape and dtype of its inputs; a single prompt is returned bit for bit.
    """
    if len(encodings) == 1:
        return encodings[0]
    shares = np.array(weights, np.float64) / np.sum(weights)
    stacked = np.stack(encodings).astype(np.float64)  # (N, 1, 77, D)
    mean = np.tensordot(shares, stacked, axes=1)
    length = np.tensordot(shares, np.linalg.norm(stacked, axis=-1, keepdims=True), axes=1)
    found = np.linalg.norm(mean, axis=-1, keepdims=True)
    scale = np.divide(length, found, out=np.ones_like(found), where=found > 1e-12)
    blended: np.ndarray = (mean * scale).astype(np.float32)
    return blended


class Slerp:
    """Interpolate spherically from `a` to `b`, per token (Shoemake 1985); norms change linearly.

    The constructor computes the angles, so one step of a transition costs a fraction of a
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
        """Return encoder_hidden_states at `t`, 0 to 1; exactly `a` and `b` at the ends."""
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
    """Return encoder_hidden_states at `position`, 0 to len(stops) - 1, on the path of `stops`."""
    leg = min(int(position), max(0, len(stops) - 2))
    return stops[0] if len(stops) == 1 else Slerp(stops[leg], stops[leg + 1])(position - leg)


def on_pad(prompt: ParsedPrompt, encode: Callable[[Blend], np.ndarray]) -> np.ndarray:
    """Return encoder_hidden_states at the place of a pad; only corners with a share are encoded.

    A corner is exactly its prompt, and an edge exactly `Slerp` between its two.
    """
    near = [(encode(one), share) for one, share in on_corners(prompt) if share]
    encodings, weights = [one for one, _ in near], [share for _, share in near]
    if len(near) == 1:
        return encodings[0]
    if len(near) == 2:
        return Slerp(encodings[0], encodings[1])(weights[1])
    return spherical_mean(encodings, weights)


def combine(prompt: ParsedPrompt, encode: Callable[[Part], np.ndarray]) -> np.ndarray:
    """Return encoder_hidden_states of a parsed prompt, float32 (1, 77, D).

    encode: returns encoder_hidden_states of one part, whose text is plain.
    """

    def stop(parts: Blend) -> np.ndarray:
        return blend([encode(part) for part in parts], [part.weight for part in parts])

    if prompt.below:
        return on_pad(prompt, stop)
    leg = min(int(prompt.position), max(0, len(prompt.stops) - 2))
    near = prompt.stops[leg : leg + 2]  # only these two affect the result
    return along([stop(parts) for parts in near], prompt.position - leg)


def ease(t: float) -> float:
    """Map `t` to 0 to 1 with zero slope at both ends: 3 t^2 - 2 t^3."""
    t = min(1.0, max(0.0, t))
    return t * t * (3 - 2 * t)
