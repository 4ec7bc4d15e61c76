"""Phases of the paper, reference makers and measurements. Nothing in the core imports this."""
