"""Datasets in memory, the IDX format, and the training/validation split."""
