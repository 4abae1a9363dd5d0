"""What every part of the reader needs."""
