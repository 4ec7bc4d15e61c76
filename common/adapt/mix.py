"""What prompts say of LoRAs: the weights of a checkpoint's LoRAs under a prompt.

A LoRA has the weight of its option, unless the prompt names it. Along a bank of prompts the weights
go from stop to stop as the prompt does; on a pad they are the mean of its corners.
"""

import numpy as np

from ..errors import UsageError
from ..prompt.pad import on_corners
from ..prompt.syntax import ParsedPrompt, Part, parse_prompt
from .loras import Adapters

Weights = tuple[float, ...]  # of a checkpoint's LoRAs, in their order


def weights_of(adapters: Adapters, part: Part) -> Weights:
    """Return the weights under one part of a prompt. Raises UsageError for an unknown name."""
    weights = list(adapters.weights)
    for name, weight in part.loras:
        weights[adapters.index(name)] = weight
    return tuple(weights)


def mixed(adapters: Adapters, prompt: str | ParsedPrompt) -> Weights:
    """Return the weights under a prompt, and open those LoRAs. Raises UsageError, WeightsError."""
    parsed = parse_prompt(prompt) if isinstance(prompt, str) else prompt
    stops = [weights_of(adapters, stop[0]) for stop in parsed.corners]
    for weights in stops:
        if adapters.fixed and weights != adapters.weights:
            raise UsageError(f"prompt {str(prompt)[:60]!r}: {adapters.fixed}")
        adapters.open(weights)
    if parsed.below:
        parts = [share for _, share in on_corners(parsed)]
        return tuple(float(np.dot(parts, each)) for each in zip(*stops, strict=True))
    leg = min(int(parsed.position), max(0, len(stops) - 2))
    near, share = stops[leg : leg + 2], parsed.position - leg
    if len(near) == 1:
        return near[0]
    return tuple((1 - share) * a + share * b for a, b in zip(*near, strict=True))


def scaled(weights: Weights, scale: float) -> Weights:
    """Return weights at a LoRA scale."""
    return weights if scale == 1 else tuple(scale * weight for weight in weights)
