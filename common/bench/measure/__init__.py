"""Measuring: each backend in a process of its own, rounds in alternation."""
