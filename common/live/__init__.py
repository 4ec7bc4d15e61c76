"""One live session: frames between threads, the loop, its figures, keys and window."""
