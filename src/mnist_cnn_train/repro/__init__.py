"""The project's `dvc` command, and verification of committed results."""
