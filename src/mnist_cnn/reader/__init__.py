"""The public reader of digits."""
