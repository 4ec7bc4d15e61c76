"""Configs as frozen dataclasses, read from a checkpoint's own json files.

Unknown keys are ignored, because newer libraries add keys with neutral defaults. A known key with
an unimplemented value is an error, because the picture would be wrong.
"""
