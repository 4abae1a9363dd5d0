"""What all stages share: settings, paths, and how a stage runs."""
