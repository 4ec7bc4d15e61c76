"""Other implementations, wrapped as backends that bench can measure beside ours."""
