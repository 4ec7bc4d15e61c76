"""`sdxs mac-check`: what only a Mac can tell, asked once and written down."""
