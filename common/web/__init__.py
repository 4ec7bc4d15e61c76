"""The page of a session, and its API: one socket, one table of parameters, no file by name."""
