"""Measurements behind the figures in docs/results."""
