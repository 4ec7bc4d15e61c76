"""Change a checkpoint's tensors between its file and a backend; networks do not know of it."""
