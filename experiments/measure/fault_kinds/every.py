"""Every kind of faults: importing this module fills the list."""

from . import checkpoints, pickles
from .fault import Fault, faults

__all__ = ["Fault", "checkpoints", "faults", "pickles"]
