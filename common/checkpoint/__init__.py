"""Checkpoints on disk: registry, hub, configs, layouts, hashes, import of pickles."""
