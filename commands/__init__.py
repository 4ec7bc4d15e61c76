"""The commands of `sdxs`, a file each. They parse and show; what works is imported inside them."""
