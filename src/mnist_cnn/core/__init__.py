"""Shared basics: errors, atomic files, the model's location, MNIST's constants."""
