"""Shared by every backend: checkpoints, prompts, frames, the live loop. Imports no backend."""
