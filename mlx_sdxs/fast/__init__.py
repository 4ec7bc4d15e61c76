"""Faster exact forms of the networks and their operations, each with a parity test."""
