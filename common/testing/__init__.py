"""Fakes and random checkpoints, for tests and experiments."""
