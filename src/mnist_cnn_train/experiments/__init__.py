"""Many runs: recipes, seeds, sweeps."""
