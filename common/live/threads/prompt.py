"""A prompt that is ready to be rendered."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt and what the text encoder made of it, float32 (1, 77, D)."""

    text: str
    encoder_hidden_states: np.ndarray
