"""The helpers of syphon-python that sdxs calls."""
