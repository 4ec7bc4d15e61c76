"""SDXS as Core ML programs, written straight from safetensors; run by Core ML, or read by an interpreter."""

import logging

# Core ML itself exists on macOS only; elsewhere importing coremltools logs a line for each part that it lacks.
logging.getLogger("coremltools").addFilter(lambda record: not record.getMessage().startswith("Failed to load _ML"))
