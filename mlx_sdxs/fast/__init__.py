"""Exact rewrites of the networks that are faster, each with its parity test."""
