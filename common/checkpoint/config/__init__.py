"""Configs as frozen dataclasses, read from a checkpoint's own json files.

Unknown keys are ignored, because newer libraries add keys with neutral defaults. A known key with a
value this code does not implement is an error: ignoring it would give a wrong picture.
"""
