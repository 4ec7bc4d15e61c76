"""Where pictures go: a film, an image, a folder of PNGs, a window."""
