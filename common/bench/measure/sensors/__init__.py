"""Sensors of energy, one file a source."""
