"""Parity with diffusers and transformers, and the fixtures that tests compare with."""
