"""Batch prediction of millions of images to Parquet."""
