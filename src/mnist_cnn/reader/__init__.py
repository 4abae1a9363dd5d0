"""The public API for reading digits."""
