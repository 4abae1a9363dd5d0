"""Random image transforms for training."""
