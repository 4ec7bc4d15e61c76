"""A backend in a child process, with its frames in shared memory."""
