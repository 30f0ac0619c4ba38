"""Training data: photos, pairs, and the ways a photo becomes low-resolution."""
