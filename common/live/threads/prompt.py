"""A prompt that is ready to be rendered."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...adapt.loras import Adapters
from ...adapt.mix import Weights, mixed, scaled

Encode = Callable[..., np.ndarray]  # of a text, and the LoRA scale if there are LoRAs


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and what the text encoder made of it, float32 (1, 77, D).

    loras: the weights of the checkpoint's LoRAs under it; None without LoRAs. lora_scale: that it
    was encoded at.
    """

    text: str
    encoder_hidden_states: np.ndarray
    loras: Weights | None = None
    lora_scale: float = 1.0


def prepared(
    text: str, encode: Encode, adapters: Adapters | None, lora_scale: float = 1.0
) -> Prompt:
    """Encode a prompt, with what it says of LoRAs. Raises UsageError, WeightsError."""
    if adapters is None:
        return Prompt(text, encode(text))
    weights = mixed(adapters, text)
    return Prompt(text, encode(text, lora_scale), weights, lora_scale)


def is_encoded_for(prompt: Prompt, lora_scale: float, adapters: Adapters) -> bool:
    """Tell whether a prompt was encoded as it would be at another LoRA scale."""
    if prompt.lora_scale == lora_scale or prompt.loras is None:
        return True
    return not adapters.read_text(scaled(prompt.loras, lora_scale or 1.0))
