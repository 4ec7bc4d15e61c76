"""Change a loaded frame's weights while it renders; networks do not know of it."""
