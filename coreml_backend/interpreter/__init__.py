"""A NumPy interpreter of ML Programs: what a program computes, without Core ML."""
