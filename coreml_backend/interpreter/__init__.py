"""A NumPy interpreter of ML Programs: the reference runtime, without Core ML."""
