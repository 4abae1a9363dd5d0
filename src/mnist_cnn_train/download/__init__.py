"""Download datasets, or import them from folders."""
