"""Every kind of faults: importing this module fills the list."""

from . import (
    checkpoints,
    leaks,
    media,
    outputs,
    pickles,
    records,
    signals,
    stores,
    surroundings,
    words,
)
from .fault import Fault, faults

ROOMS = (
    checkpoints, pickles, stores, records, words, media, outputs, signals, surroundings, leaks
)  # fmt: skip
__all__ = ["ROOMS", "Fault", "faults"]
