"""Predictions for millions of images, into Parquet."""
