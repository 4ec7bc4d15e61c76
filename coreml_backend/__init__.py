"""SDXS as Core ML programs, written straight from safetensors; run by Core ML, or read by an
interpreter.
"""

import logging

# Importing coremltools logs a line for each part of Core ML that a system without it lacks, and
# one about a PyTorch newer than it knows; nothing here goes through PyTorch.
_NOISE = ("Failed to load _ML", "Torch version")
logging.getLogger("coremltools").addFilter(
    lambda record: not record.getMessage().startswith(_NOISE)
)
