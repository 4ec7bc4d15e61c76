"""The threads of a live session, and the frames that travel between them."""
