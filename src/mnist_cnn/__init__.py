"""A tiny, trustworthy reader of handwritten digits, and the pipeline that makes it."""
