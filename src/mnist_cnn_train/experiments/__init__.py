"""Experiments with many runs: recipes, seeds and sweeps."""
